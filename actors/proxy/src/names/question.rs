//! A question of RFC 1035, read strictly, and its answer.
//!
//! Exactly one question, without compression, nothing behind it but an OPT record (RFC 6891). The answer
//! repeats the question's own bytes, so that resolvers that mix cases (0x20) know it again. Nothing here
//! allocates by a number from the packet, and nothing decides.

use std::net::IpAddr;

/// Most bytes of a question: a name of 255, the rest, and EDNS options that nobody here reads.
pub const MAX_QUERY_BYTES: usize = 1232;
const HEADER: usize = 12;
/// Longest name on the wire (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;
const OPT: u16 = 41;
/// The UDP payload size that answers advertise (RFC 9715: fits everywhere).
const PAYLOAD: u16 = 1232;

/// Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// Types of records that are treated differently (RFC 1035 section 3.2.2, RFC 3596).
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;
/// ANY, and the transfers below it: questions about a zone, not a name.
pub(crate) const META: std::ops::RangeInclusive<u16> = 249..=255;
const CLASS_IN: u16 = 1;

/// A packet that is to be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    head: Head,
    /// Name, type and class as they came.
    raw: &'a [u8],
    /// The labels, without the final empty one.
    name: &'a [u8],
    pub(crate) kind: u16,
    edns: bool,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    id: [u8; 2],
    /// RD and opcode of the query, repeated in the answer.
    flags: u8,
}

/// What a packet is.
#[derive(Debug)]
pub(crate) enum Packet<'a> {
    Question(Question<'a>),
    /// A question that is answered with this error, without a look at its name.
    Fault(Vec<u8>),
    /// Not answered at all: an answer itself, or no DNS.
    Noise,
}

/// Reads a packet.
pub(crate) fn read(packet: &[u8]) -> Packet<'_> {
    let Some((header, body)) = packet.split_first_chunk::<HEADER>() else { return Packet::Noise };
    let count =
        |at: usize| header.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |two| u16::from_be_bytes(*two));
    // QR: if answers were answered, two servers could go on for ever.
    if header[2] & 0x80 != 0 {
        return Packet::Noise;
    }
    let head = Head { id: [header[0], header[1]], flags: header[2] & 0x79 };
    let fault = |code| Packet::Fault(head.answer(code, None, &[], 0, false));
    if header[2] & 0x78 != 0 {
        return fault(Code::NotImp);
    }
    if packet.len() > MAX_QUERY_BYTES || count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 1 {
        return fault(Code::FormErr);
    }
    let Some((name, kind, class, rest)) = question(body) else { return fault(Code::FormErr) };
    let raw = body.get(..body.len() - rest.len()).unwrap_or_default();
    let edns = match (count(10), opt(rest)) {
        (0, _) if rest.is_empty() => false,
        (1, Some(0)) => true,
        (1, Some(_)) => return Packet::Fault(head.answer(Code::BadVers, Some(raw), &[], 0, true)),
        _ => return fault(Code::FormErr),
    };
    let question = Question { head, raw, name, kind, edns };
    match class == CLASS_IN && !META.contains(&kind) {
        true => Packet::Question(question),
        false => Packet::Fault(question.fails(Code::Refused)),
    }
}

/// The name's labels, type, class, and what follows.
fn question(body: &[u8]) -> Option<(&[u8], u16, u16, &[u8])> {
    let mut at = 0;
    loop {
        let length = usize::from(*body.get(at)?);
        if length == 0 {
            break;
        }
        // 0x40 and up: pointers and kinds of labels that a question has no use for.
        if length > 63 {
            return None;
        }
        at += 1 + length;
    }
    if at + 1 > MAX_NAME {
        return None;
    }
    let (fixed, rest) = body.get(at + 1..)?.split_first_chunk::<4>()?;
    let [k0, k1, c0, c1] = *fixed;
    Some((body.get(..at)?, u16::from_be_bytes([k0, k1]), u16::from_be_bytes([c0, c1]), rest))
}

/// The version of an OPT record that fills `rest`.
fn opt(rest: &[u8]) -> Option<u8> {
    let (fixed, options) = rest.split_first_chunk::<11>()?;
    let [root, k0, k1, _, _, _, version, _, _, l0, l1] = *fixed;
    let whole = usize::from(u16::from_be_bytes([l0, l1])) == options.len();
    (root == 0 && u16::from_be_bytes([k0, k1]) == OPT && whole).then_some(version)
}

impl Question<'_> {
    /// The name in lower case, if its labels are of letters, digits, `-` and `_`. Doesn't check that it can
    /// be a host's.
    pub(crate) fn text(&self) -> Option<String> {
        let mut text = String::with_capacity(self.name.len());
        let mut rest = self.name;
        while let Some((length, more)) = rest.split_first() {
            let (label, next) = more.split_at_checked(usize::from(*length))?;
            if !label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
            rest = next;
        }
        Some(text)
    }

    /// The answer for a name that exists, with its address of the type asked for, if it has one.
    pub(crate) fn answers(&self, address: Option<IpAddr>, ttl: u32) -> Vec<u8> {
        let mut record = Vec::with_capacity(28);
        if let Some(address) = address {
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            // The question's name, by a pointer to it.
            record.extend([0xc0, HEADER as u8]);
            record.extend(self.kind.to_be_bytes());
            record.extend(CLASS_IN.to_be_bytes());
            record.extend(ttl.to_be_bytes());
            record.extend([0, octets.len() as u8]);
            record.extend(octets);
        }
        self.head.answer(Code::NoError, Some(self.raw), &record, u16::from(address.is_some()), self.edns)
    }

    /// The answer that only says why there is none.
    pub(crate) fn fails(&self, code: Code) -> Vec<u8> {
        self.head.answer(code, Some(self.raw), &[], 0, self.edns)
    }
}

impl Head {
    fn answer(self, code: Code, question: Option<&[u8]>, records: &[u8], count: u16, edns: bool) -> Vec<u8> {
        let raw = question.unwrap_or_default();
        let mut out = Vec::with_capacity(HEADER + raw.len() + records.len() + 11);
        out.extend(self.id);
        // An answer, repeating RD; recursion is available.
        out.extend([0x80 | self.flags, 0x80 | (code as u8 & 0x0f)]);
        out.extend(u16::from(question.is_some()).to_be_bytes());
        out.extend(count.to_be_bytes());
        out.extend([0, 0]);
        out.extend(u16::from(edns).to_be_bytes());
        out.extend(raw);
        out.extend(records);
        if edns {
            out.push(0);
            out.extend(OPT.to_be_bytes());
            out.extend(PAYLOAD.to_be_bytes());
            out.extend([code as u8 >> 4, 0, 0, 0, 0, 0]);
        }
        out
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::names) fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut q = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            q.push(label.len() as u8);
            q.extend(label.as_bytes());
        }
        q.push(0);
        q.extend(kind.to_be_bytes());
        q.extend([0, 1]);
        q
    }

    fn code(packet: &[u8]) -> Option<u8> {
        match read(packet) {
            Packet::Question(_) => Some(0),
            Packet::Fault(answer) => Some(answer[3] & 0xf),
            Packet::Noise => None,
        }
    }

    #[test]
    fn a_question_and_its_answer() {
        let packet = ask("API.bed.Test", A);
        let Packet::Question(question) = read(&packet) else { panic!() };
        assert_eq!(question.text().unwrap(), "api.bed.test");
        let answer = question.answers(Some("198.18.0.1".parse().unwrap()), 60);
        assert_eq!(&answer[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(&answer[12..packet.len()], &packet[12..], "the question as it was asked");
        assert_eq!(&answer[packet.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 1]);
        assert_eq!(question.fails(Code::NxDomain)[3], 0x83);
    }

    #[test]
    fn edns_is_answered_in_kind() {
        let mut packet = ask("a.test", AAAA);
        packet[11] = 1;
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let Packet::Question(question) = read(&packet) else { panic!() };
        let answer = question.answers(None, 60);
        assert_eq!(answer[11], 1);
        assert_eq!(&answer[answer.len() - 11..], [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let at = packet.len() - 5;
        packet[at] = 1;
        let Packet::Fault(answer) = read(&packet) else { panic!() };
        assert_eq!(answer[answer.len() - 6], 1, "BADVERS");
    }

    #[test]
    fn what_is_no_plain_question_is_a_fault_or_noise() {
        let good = ask("a.test", A);
        let with = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        let mut pointer = ask("", A);
        pointer.splice(12..13, [0xc0, 12]);
        let long = ask(&["a"; 127].join("."), A);
        let too_long = ask(&["a"; 128].join("."), A);
        let padded = [good.clone(), vec![0; MAX_QUERY_BYTES]].concat();
        for (packet, wanted) in [
            (good.clone(), Some(0)),
            (with(2, 0x81), None),
            (with(2, 0x29), Some(4)),
            (with(5, 2), Some(1)),
            (with(5, 0), Some(1)),
            (with(7, 1), Some(1)),
            (with(11, 1), Some(1)),
            (with(12, 0x40), Some(1)),
            (pointer, Some(1)),
            (long, Some(0)),
            (too_long, Some(1)),
            ([good.clone(), vec![0]].concat(), Some(1)),
            (padded, Some(1)),
            (good[..good.len() - 1].to_vec(), Some(1)),
            (good[..11].to_vec(), None),
            (ask("a.test", 255), Some(5)),
            (ask("a.test", 252), Some(5)),
            (with(good.len() - 1, 3), Some(5)),
        ] {
            assert_eq!(code(&packet), wanted, "{packet:?}");
        }
        let dotted = {
            let mut packet = ask("a", A);
            packet[13] = b'.';
            packet
        };
        let Packet::Question(question) = read(&dotted) else { panic!() };
        assert_eq!(question.text(), None, "a dot in a label is no dot between labels");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Packet::Question(question) = read(&bytes) {
                let answer = question.answers(Some("::1".parse().unwrap()), 1);
                prop_assert!(answer.len() < 512);
                let _ = question.text();
            }
        }

        #[test]
        fn a_damaged_question_does_no_harm(at in 0usize..40, byte in any::<u8>(), cut in 0usize..40) {
            let mut packet = ask("api.bed.test", A);
            if let Some(b) = packet.get_mut(at) { *b = byte }
            packet.truncate(packet.len().saturating_sub(cut));
            let _ = read(&packet);
        }

        /// Whatever we take, another implementation reads the same, and it reads our answer.
        #[test]
        fn another_implementation_agrees(name in "[a-w][a-z0-9]{0,20}(\\.[a-w][a-z0-9_]{0,20}){0,4}", kind in prop_oneof![Just(A), Just(AAAA), Just(65u16)]) {
            let packet = ask(&name, kind);
            prop_assert!(matches!(read(&packet), Packet::Question(q) if q.text().as_ref() == Some(&name)));
            crate::fuzzing::dns::holds(&packet);
        }
    }
}
