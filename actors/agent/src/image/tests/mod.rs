//! Images built by hand, ordinary and hostile, unpacked by the mechanism itself (the process around it is
//! tested with the whole program).

mod build;
mod documents;
mod hostile;
mod ordinary;
