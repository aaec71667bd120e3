//! cofferdam supervision.
