//! cofferdam agent.
