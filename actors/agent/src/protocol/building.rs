//! The messages between heart and builder. Only the operator tells the builder what to build, and the builder
//! hears the operator itself.

use serde::{Deserialize, Serialize};

/// A packet from the builder to the heart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBuilder {
    /// The init of another cage was made. It is a child of the heart's, which ends it with the sandbox.
    /// Descriptor 0: its pidfd.
    Begun {
        /// Its pid.
        pid: i32,
    },
    /// The cage of that init is built and proven, and nothing runs in it. Descriptors: the supervisor's end
    /// of the channel to init, the sealed plan. Answered by a [`ToBuilder`], once the cage is in use or
    /// refused.
    Built {
        /// The operator who wants it.
        uid: u32,
    },
    /// The cage could not be made.
    Failed,
}

/// A packet from the heart to the builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBuilder {
    /// The agents run in the other cage.
    Stands,
    /// The other cage is not used, and is gone.
    Dropped {
        /// Why it is not used.
        why: String,
    },
}
