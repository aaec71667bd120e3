//! What heart and builder say to each other. Nobody tells the builder what to build but the operator, whom it
//! hears itself.

use serde::{Deserialize, Serialize};

/// A packet from the builder to the heart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBuilder {
    /// The init of another cage was made, a child of the heart's, which ends it with the sandbox. Descriptor
    /// 0: its pidfd.
    Begun {
        /// Its pid.
        pid: i32,
    },
    /// The cage of that init is built and proven, and nothing runs in it. Descriptors: the supervisor's end
    /// of the channel to init, the sealed plan. Answered by a [`ToBuilder`], once it is in use or refused.
    Built {
        /// The operator who wants it.
        uid: u32,
    },
    /// It came to nothing.
    Failed,
}

/// A packet from the heart to the builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBuilder {
    /// The agents run in it.
    Stands,
    /// It is not used, and gone.
    Dropped {
        /// Why.
        why: String,
    },
}
