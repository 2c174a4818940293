//! House rules and end-to-end tests live in `tests/`.
