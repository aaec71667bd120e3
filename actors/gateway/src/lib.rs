//! cofferdam gateway.
