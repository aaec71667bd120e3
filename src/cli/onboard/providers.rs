//! Chooses the file's providers: what was typed, or so few of the detected ones that the choice surprises
//! nobody.
//!
//! What was typed may be a key by mistake, so no message here repeats it.

use gateway::base_url::BaseUrl;
use gateway::config::{Cost, Kind, Provider, StreamUsage, Trust};
use redactor::{Credential, Reference};
use smol_str::SmolStr;

use super::file::Agent;
use crate::cli::provider::detect::{Detected, Offer};
use crate::cli::provider::known::SERVICES;
use crate::failure::Failure;

/// What `--provider` takes, for messages.
const TAKES: &str = "--provider takes `detect`, `none`, or KIND=URL with ,CREDENTIAL behind it where a key is needed, such as \
                     openai=https://integrate.api.nvidia.com/v1,env:NVIDIA_API_KEY";

/// Returns every `--provider` that was typed; `None` if they are to be detected.
///
/// # Errors
/// A provider can't be parsed; the message doesn't repeat it.
pub fn typed(given: &[String]) -> Result<Option<Vec<Offer>>, Failure> {
    let words: Vec<&str> = given.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["detect"] => return Ok(None),
        ["none"] => return Ok(Some(Vec::new())),
        words if words.iter().any(|word| matches!(*word, "detect" | "none")) => {
            return Err(Failure::refused("--provider detect and --provider none stand alone"));
        }
        _ => {}
    }
    let mut these = Detected::default();
    for word in words {
        let provider = one(word).map_err(|why| Failure::refused(format!("{why}; {TAKES}")))?;
        let name = these.free_name(name_of(&provider));
        these.providers.push(Offer { name, provider, models: Vec::new(), found: "typed".into() });
    }
    Ok(Some(these.providers))
}

/// Parses `KIND=URL[,CREDENTIAL]`.
///
/// # Errors
/// The message says which part is wrong, and doesn't repeat it.
pub fn one(text: &str) -> Result<Provider, String> {
    let (kind, rest) = text.split_once('=').ok_or("a provider has a kind, `=` and a URL")?;
    let kind =
        Kind::ALL.into_iter().find(|it| it.as_str() == kind).ok_or("the kind is openai or anthropic")?;
    let (url, credential) = match rest.split_once(',') {
        Some((url, credential)) => (url, Some(credential)),
        None => (rest, None),
    };
    let base = BaseUrl::parse(url).map_err(|why| format!("the URL {why}"))?;
    let credential =
        credential.map(Reference::parse).transpose().map_err(|why| format!("the credential: {why}"))?;
    let near = base.is_loopback();
    let service =
        SERVICES.iter().find(|it| it.kind == kind && BaseUrl::parse(it.base_url).as_ref() == Ok(&base));
    Ok(Provider {
        kind,
        base_url: url.to_owned(),
        credential: credential.map(Credential::Reference),
        trust: if near { Trust::SelfHosted } else { Trust::Standard },
        cost: if near { Cost::None } else { Cost::PerToken },
        stream_usage: service.map_or(StreamUsage::Ask, |it| it.stream_usage),
    })
}

fn name_of(provider: &Provider) -> &'static str {
    let base = BaseUrl::parse(&provider.base_url).ok();
    let host = |url: &str| BaseUrl::parse(url).ok().map(|it| it.host);
    let service = SERVICES
        .iter()
        .find(|it| base.as_ref().is_some_and(|base| host(it.base_url).as_ref() == Some(&base.host)));
    match (service, base) {
        (Some(service), _) => service.name,
        (None, Some(base)) if base.is_loopback() => "local",
        _ => provider.kind.as_str(),
    }
}

/// Splits the offers: the first one that the agent can speak to (the first of each kind if that isn't known),
/// and the rest. An agent's requests must not go to a provider that the operator didn't choose, not even when
/// the first one fails.
pub fn first_fit(offers: Vec<Offer>, agent: &Agent) -> (Vec<Offer>, Vec<Offer>) {
    let speaks = agent.known().map(|known| known.speaks);
    let mut seen: Vec<Kind> = Vec::new();
    offers.into_iter().partition(|offer| {
        let kind = offer.provider.kind;
        let is_first = speaks.is_none_or(|speaks| speaks == kind) && !seen.contains(&kind);
        seen.push(kind);
        is_first
    })
}

/// Puts a model in front, at the first provider that the agent can speak to.
///
/// # Errors
/// There is none.
pub fn with_model(offers: &mut [Offer], agent: &Agent, model: &str) -> Result<(), Failure> {
    let speaks = agent.known().map(|known| known.speaks);
    let offer = offers.iter_mut().find(|offer| speaks.is_none_or(|speaks| speaks == offer.provider.kind));
    let offer = offer.ok_or_else(|| {
        Failure::refused("--model: there is no provider that could have it: name one by --provider")
    })?;
    offer.models.insert(0, SmolStr::new(model));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_read_and_never_repeated() {
        let given = [
            "openai=https://integrate.api.nvidia.com/v1,env:NVIDIA_API_KEY",
            "openai=http://127.0.0.1:8000/v1",
            "openai=https://llm.corp/v1,file:/a,b",
        ];
        let these = typed(&given.map(str::to_owned)).unwrap().unwrap();
        let names: Vec<&str> = these.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["nvidia", "local", "openai"]);
        assert_eq!(these[1].provider.trust, Trust::SelfHosted);
        assert_eq!(format!("{:?}", these[2].provider.credential), "Some(file:/a,b)");
        for bad in [
            "sk-secret",
            "sk-secret=https://x",
            "openai=sk-secret",
            "openai=https://sk-secret@x",
            "openai=https://x,sk-secret",
            "none,sk-secret",
        ] {
            let why = typed(&[bad.to_owned()]).unwrap_err().message;
            assert!(!why.contains("sk-secret") && why.contains("KIND=URL"), "{why}");
        }
        assert_eq!(typed(&["detect".to_owned()]).unwrap().map(drop), None);
        assert!(typed(&["none".to_owned()]).unwrap().is_some_and(|none| none.is_empty()));
        let both = ["none", "detect"].map(str::to_owned);
        assert!(typed(&both).unwrap_err().message.contains("alone"));
    }

    #[test]
    fn nobody_is_chosen_behind_the_first() {
        let given = [
            "openai=http://127.0.0.1:1/v1",
            "anthropic=https://api.anthropic.com,env:A",
            "openai=https://api.openai.com/v1,env:B",
        ];
        let all = typed(&given.map(str::to_owned)).unwrap().unwrap();
        let names = |offers: &[Offer]| offers.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        let command = Agent::Command(vec!["x".into()]);
        let (used, left) = first_fit(all.clone(), &command);
        assert_eq!(
            (names(&used), names(&left)),
            (vec!["local".into(), "anthropic".into()], vec!["openai".into()])
        );
        let claude = Agent::Known(
            super::super::agents::Known::named("claude").unwrap(),
            super::super::agents::Program::Inside("claude".into()),
        );
        let (mut used, _) = first_fit(all, &claude);
        assert_eq!(names(&used), ["anthropic"]);
        with_model(&mut used, &claude, "m").unwrap();
        assert_eq!(used[0].models, ["m"]);
        assert!(with_model(&mut [], &claude, "m").is_err());
    }
}
