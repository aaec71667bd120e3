//! A packet that we take for a question is read the same by hickory, and hickory reads each of our answers as
//! an answer to it.

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};

use crate::names::question::{A, AAAA, Code, Packet, Question, read};

/// The property.
pub fn holds(packet: &[u8]) {
    match read(packet) {
        Packet::Noise => {}
        Packet::Fault(answer) => {
            let theirs = answers(packet, &answer);
            assert!(theirs.answers.is_empty() && theirs.metadata.response_code != ResponseCode::NoError);
        }
        Packet::Question(question) => question_holds(packet, &question),
    }
}

fn question_holds(packet: &[u8], question: &Question<'_>) {
    // We ignore EDNS options; hickory reads them, and may refuse them.
    if let Ok(theirs) = Message::from_vec(packet) {
        let [query] = theirs.queries.as_slice() else { panic!("{} questions", theirs.queries.len()) };
        assert_eq!(u16::from(query.query_type()), question.kind);
        if let Some(text) = question.text() {
            let name: Vec<String> =
                query.name().iter().map(String::from_utf8_lossy).map(Into::into).collect();
            assert_eq!(name.join(".").to_ascii_lowercase(), text);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{text}");
        }
    }
    let address = match question.kind {
        A => Some([198, 18, 0, 1].into()),
        AAAA => Some([0xfd00, 0, 0, 0, 0, 0, 0, 1].into()),
        _ => None,
    };
    let found = answers(packet, &question.answers(address, 60));
    assert_eq!(found.metadata.response_code, ResponseCode::NoError);
    assert_eq!(found.answers.iter().filter_map(|record| record.data.ip_addr()).next(), address);
    for record in &found.answers {
        assert_eq!(record.name, found.queries[0].name);
    }
    for (code, theirs) in [(Code::NxDomain, ResponseCode::NXDomain), (Code::Refused, ResponseCode::Refused)] {
        let found = answers(packet, &question.fails(code));
        assert!(found.metadata.response_code == theirs && found.answers.is_empty());
    }
}

/// An answer to this packet as hickory reads it: short, of its id, with its question or none.
fn answers(packet: &[u8], answer: &[u8]) -> Message {
    assert!(answer.len() <= 512, "{} bytes go by UDP everywhere", answer.len());
    let theirs = Message::from_vec(answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!(theirs.metadata.id.to_be_bytes(), packet[..2]);
    assert_eq!(theirs.metadata.message_type, MessageType::Response);
    if !theirs.queries.is_empty() {
        // Name, type and class.
        let name: usize = theirs.queries[0].name().iter().map(|label| label.len() + 1).sum();
        let end = 12 + name + 1 + 4;
        assert_eq!(answer[12..end], packet[12..end], "the question as it was asked");
    }
    theirs
}
