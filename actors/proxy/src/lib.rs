//! cofferdam proxy.
