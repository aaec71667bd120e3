//! cofferdam redactor.
