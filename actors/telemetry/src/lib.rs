//! cofferdam telemetry.
