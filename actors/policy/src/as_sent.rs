//! Judges a whole request as it is sent: its own method, the methods that its query names, and the further
//! resources that its headers name.
//!
//! The proxy and `policy explain` both judge whole requests here. Must never be more lenient than the
//! judgement of each part.

use crate::compiled::{Answers, Compiled};
use crate::decision::{Allowed, Denial, RequestFacts};
use crate::renamed::{renamed, unknown_method};
use crate::second::Second;
use crate::{Caller, Destination, Treatment};

impl Compiled {
    /// Decides whether a request on a granted connection may be sent. Every method that a server may read in
    /// it must be allowed: its own, as [`Self::request`] says, and each that its query names. The caller must
    /// also be allowed to do for itself what it asks the server to do to `seconds`. Where the connection is
    /// relayed, the destination was all there is to judge.
    ///
    /// # Errors
    /// The denial of the first of these that isn't allowed. A method or resource that can't be judged is
    /// denied even under `enforcement: audit`.
    pub fn request_as_sent(
        &self,
        (to, treatment): (&Destination, Treatment),
        caller: &Caller,
        facts: &RequestFacts<'_>,
        seconds: &[Second],
    ) -> Result<Allowed, Denial> {
        let renamed = renamed(treatment, facts);
        // The path is the agent's, and as long as it likes: compared with each rule once, not once a method.
        let said = if renamed.is_empty() { Answers::for_parts(facts.content) } else { Answers::kept() };
        let mut allowed = self.judged(to, caller, facts, &said)?;
        for method in renamed {
            let method = method.ok_or_else(unknown_method)?;
            let also = self.judged(to, caller, &RequestFacts { method: &method, ..*facts }, &said);
            let also = also.map_err(|denial| Denial {
                detail: format!("its query makes it {method} to some servers: {}", denial.detail),
                ..denial
            })?;
            allowed.audit_only = allowed.audit_only.or(also.audit_only);
        }
        if let Treatment::Inspect { .. } = treatment {
            for second in seconds {
                let should_have = second.judge(self, to, caller)?;
                allowed.audit_only = allowed.audit_only.or(should_have);
            }
        }
        Ok(allowed)
    }
}
