//! Codes with which a child pays: as pictures, and on the hardware that shows them (PC-6, PC-7, PC-10).

mod output;
mod picture;

pub(crate) use output::{Presenter, replace};
pub(crate) use picture::{PictureError, as_lines, as_png, as_svg, read_png};
