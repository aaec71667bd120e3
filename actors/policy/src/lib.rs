//! cofferdam policy.
