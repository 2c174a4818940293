//! Every byte that crosses a wire or a disk: ids, money, time, topics and who may use them, messages, limits.
//!
//! Begin with [`topic`], then [`message`]; [`envelope`] says how a message is framed and [`signed`] what is signed.
//! [`document`] generates the CDDL and AsyncAPI files beside this package from the same declarations.

pub mod cbor;
pub mod claim;
pub mod document;
pub mod envelope;
pub mod feed;
pub mod ids;
pub mod limits;
pub mod message;
pub mod money;
pub mod signed;
pub mod time;
pub mod topic;
pub mod wire;
