//! `docs/protocols.md`: every example is a policy, and every question under it has the answer that it says.

use cofferdam_policy::{Compiled, Question, Verdict, parse};

#[test]
fn every_question_of_the_page_has_the_answer_that_it_says() {
    let page = include_str!("../../../docs/protocols.md");
    let mut asked = 0;
    for part in page.split("\n```yaml\n").skip(1) {
        let (endpoint, rest) = part.split_once("\n```").unwrap();
        let questions = rest.split_once("\n```questions\n").unwrap().1.split_once("\n```").unwrap().0;
        let endpoint: String = endpoint.lines().map(|line| format!("      {line}\n")).collect();
        let text = format!(
            "version: 1\nnetwork_policies:\n  example:\n    endpoints:\n{endpoint}    binaries: [ {{ path: /usr/bin/curl }} ]\n"
        );
        let policy = parse("example", &text).unwrap_or_else(|errors| panic!("{errors}")).policy;
        let compiled = Compiled::new(&policy).unwrap();
        for line in questions.lines() {
            let (wanted, question) = line.split_once(": ").unwrap();
            let mut words = question.splitn(3, ' ');
            let (method, url, said) = (words.next().unwrap(), words.next().unwrap(), words.next());
            let known = match method {
                "CONNECT" => None,
                "MESSAGE" => Some("GET"),
                method => Some(method),
            };
            let mut question = Question::parse("/usr/bin/curl", known, url).unwrap();
            if let Some(request) = &mut question.request {
                match method {
                    "MESSAGE" => request.message = said.map(str::to_owned),
                    _ => request.body = said.map(str::to_owned),
                }
            }
            let explanation = compiled.explain(&question);
            let answer = if explanation.verdict == Verdict::Allow { "allowed" } else { "refused" };
            assert_eq!(answer, wanted, "{line}\n{explanation}");
            if answer == "refused" {
                assert!(explanation.nearest.is_some(), "{line}\n{explanation}");
            }
            asked += 1;
        }
    }
    assert!(asked > 40, "only {asked} questions were found");
}
