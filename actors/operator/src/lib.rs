//! cofferdam operator.
