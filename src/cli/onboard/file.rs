//! The choices, and the text of the cofferdam.yaml that they make.
//!
//! Makes only the text, writes nothing. The text holds no key: a provider's is a reference, and the only
//! token in it is the agent's own, made by this command.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use policy::quoted;

use super::agents::{Known, Program, Way};
use crate::cli::provider::detect::Offer;
use crate::cli::provider::entry::{line, scalar};
use crate::name::Name;

/// The chosen agent.
#[derive(Debug, Clone)]
pub enum Agent {
    /// A known agent, and its program.
    Known(&'static Known, Program),
    /// Any command.
    Command(Vec<String>),
}

/// Everything that the file says.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The sandbox's name.
    pub name: Name,
    /// Its agent.
    pub agent: Agent,
    /// Built-in presets.
    pub presets: Vec<String>,
    /// The providers of models, in order of preference. Of an offer's models the first is the one that is
    /// used.
    pub providers: Vec<Offer>,
    /// The directory shown at /sandbox, as the file writes it.
    pub workspace: Option<PathBuf>,
    /// The agent's own token, for clients that reach it from outside.
    pub token: String,
}

impl Agent {
    /// Returns the agent's name in the file.
    pub fn name(&self) -> Name {
        match self {
            Self::Known(known, _) => Name::from_command(known.name.as_ref()),
            Self::Command(command) => {
                Name::from_command(command.first().map(String::as_str).unwrap_or_default().as_ref())
            }
        }
    }

    /// Returns the known agent, if it is one.
    pub fn known(&self) -> Option<&'static Known> {
        match self {
            Self::Known(known, _) => Some(known),
            Self::Command(_) => None,
        }
    }

    /// Returns the program with its arguments.
    pub fn command(&self) -> Vec<String> {
        match self {
            Self::Known(known, program) => std::iter::once(program.to_string())
                .chain(known.args.iter().map(|arg| (*arg).to_owned()))
                .collect(),
            Self::Command(command) => command.clone(),
        }
    }

    /// Returns the file that a policy has to show for it, if any.
    pub fn shown(&self) -> Option<&Path> {
        match self {
            Self::Known(_, Program::Shown(file)) => Some(file),
            Self::Known(..) | Self::Command(_) => None,
        }
    }

    /// Whether a person starts it at a terminal, in a sandbox that is kept running for that.
    pub fn is_at_terminal(&self) -> bool {
        self.known().is_some_and(|known| known.way == Way::Terminal)
    }
}

impl Chosen {
    /// Returns the model that the agent is told: the first model of the first provider that it can use.
    pub fn model_for(&self, known: &Known) -> Option<String> {
        let offer = self.providers.iter().find(|offer| offer.provider.kind == known.speaks)?;
        offer.models.first().map(ToString::to_string)
    }

    /// Returns the name and text of the sandbox's own policy, if it can't be a built-in one: the default
    /// profile with one more file shown. It is written beside the configuration.
    pub fn policy(&self) -> Option<(String, String)> {
        let shown = self.agent.shown()?;
        let profile = policy::profile(policy::DEFAULT_PROFILE)?.text;
        let first = "  read_only:\n";
        let more = format!(
            "{first}    - {}   # the agent, and nothing beside it\n",
            scalar(&shown.to_string_lossy())
        );
        Some((format!("{}-policy.yaml", self.name), profile.replacen(first, &more, 1)))
    }

    /// Returns the file's text.
    pub fn text(&self) -> String {
        self.text_with(self.policy().map(|(name, _)| name).as_deref())
    }

    /// As [`Self::text`], without the agent's token: for the screen, where others may see it or find it in
    /// the terminal's history.
    pub fn text_to_show(&self) -> String {
        Self { token: "…".to_owned(), ..self.clone() }.text()
    }

    /// As [`Self::text`], with the built-in policy: for the check, while the sandbox's own policy isn't
    /// written yet.
    pub fn text_to_check(&self) -> String {
        self.text_with(None)
    }

    fn text_with(&self, policy: Option<&str>) -> String {
        let mut text = String::from(
            "# Made by `cofferdam onboard`. Every key there is: docs/config.md. No key of a provider's stands here.\n",
        );
        // Writing to a string can't fail.
        let _ = writeln!(text, "name: {}", scalar(self.name.as_str()));
        let _ = match policy {
            Some(policy) => {
                writeln!(
                    text,
                    "policy: {}        # the default, and the agent's own file",
                    scalar(&format!("./{policy}"))
                )
            }
            None => writeln!(
                text,
                "profile: {}        # nothing leaves but model requests and what presets add",
                policy::DEFAULT_PROFILE
            ),
        };
        if !self.presets.is_empty() {
            let _ = writeln!(text, "presets: {}", list(&self.presets));
        }
        if let Some(workspace) = &self.workspace {
            let _ = writeln!(text, "workspace: {}", scalar(&workspace.to_string_lossy()));
        }
        self.agents(&mut text);
        if !self.providers.is_empty() {
            self.inference(&mut text);
        }
        text
    }

    fn agents(&self, text: &mut String) {
        let name = self.agent.name();
        if self.agent.is_at_terminal() {
            let command = words(&self.agent.command());
            let _ = writeln!(
                text,
                "agents:\n  idle:        # keeps the sandbox up: `cofferdam exec -it {} -- {command}`",
                self.name
            );
            let _ = writeln!(text, "    command: [sleep, infinity]");
            return;
        }
        let _ = writeln!(text, "agents:\n  {}:", scalar(name.as_str()));
        let _ = writeln!(text, "    command: {}", list(&self.agent.command()));
        let Some(Known { name, way: Way::Service { port, health }, .. }) = self.agent.known() else { return };
        if *name == "hermes" {
            let _ = writeln!(
                text,
                "    env: {{ API_SERVER_ENABLED: \"true\", API_SERVER_KEY: {} }}   # its own, for who asks it from outside",
                quoted(&self.token)
            );
        }
        let _ = writeln!(text, "    health: {{ http: {} }}", quoted(health));
        let _ = writeln!(text, "forwards:\n  - {{ listen: \"127.0.0.1:{port}\", to: {port} }}");
    }

    fn inference(&self, text: &mut String) {
        text.push_str("inference:\n  providers:\n");
        for offer in &self.providers {
            let _ = writeln!(text, "    {}", line(&offer.name, &offer.provider));
        }
        let targets: Vec<String> = self
            .providers
            .iter()
            .map(|offer| match offer.models.first() {
                Some(model) => format!("{{ provider: {}, model: {} }}", scalar(&offer.name), quoted(model)),
                None => format!("{{ provider: {} }}", scalar(&offer.name)),
            })
            .collect();
        let _ = writeln!(text, "  routes:\n    - {{ model: \"*\", to: [ {} ] }}", targets.join(", "));
    }
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| scalar(item)).collect();
    format!("[{}]", items.join(", "))
}

/// Returns a command as it is typed into a shell.
pub fn words(command: &[String]) -> String {
    let words: Vec<_> = command.iter().map(|word| shlex::try_quote(word).unwrap_or_default()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::agents::KNOWN;
    use super::super::providers::{typed, with_model};
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_known_agent_gets_a_file_that_is_read_back() {
        for known in &KNOWN {
            let given = ["anthropic=https://api.anthropic.com,env:A", "openai=http://127.0.0.1:8000/v1"];
            let mut providers = typed(&given.map(str::to_owned)).unwrap().unwrap();
            let agent = Agent::Known(known, Program::Inside(format!("/opt/some where/{}", known.name)));
            with_model(&mut providers, &agent, "a/model:7b").unwrap();
            let chosen = Chosen {
                name: Name::parse("on").unwrap(),
                agent,
                presets: vec!["pypi".into()],
                providers,
                workspace: Some("./some # where".into()),
                token: "0123".into(),
            };
            assert_eq!(chosen.model_for(known).as_deref(), Some("a/model:7b"));
            let config = Config::of_text(&chosen.text(), Path::new("c.yaml")).unwrap();
            assert_eq!(config.name.as_deref(), Some("on"));
            assert_eq!(config.workspace.as_deref(), Some(Path::new("./some # where")));
            let inference = config.inference.unwrap();
            inference.check().unwrap();
            let targets = &inference.routes[0].to;
            assert_eq!((targets.len(), &*targets[0].provider), (2, "anthropic"));
            let at = usize::from(known.speaks == gateway::config::Kind::Openai);
            assert_eq!(targets[at].model.as_deref(), Some("a/model:7b"));
            match known.way {
                Way::Terminal => {
                    assert_eq!(config.agents["idle"].command, ["sleep", "infinity"]);
                    assert!(config.forwards.is_empty());
                }
                Way::Service { port, .. } => {
                    let agent = &config.agents[known.name];
                    assert_eq!(agent.command[0], format!("/opt/some where/{}", known.name));
                    assert_eq!(agent.command[1..], *known.args);
                    assert!(agent.health.is_some() && config.forwards[0].to == port);
                    let shown = chosen.text_to_show();
                    assert!(!shown.contains("0123"), "{shown}");
                    assert_eq!(shown, chosen.text().replace("0123", "…"));
                    assert_eq!(
                        agent.env.get("API_SERVER_KEY").map(String::as_str),
                        (known.name == "hermes").then_some("0123")
                    );
                }
            }
        }
    }

    #[test]
    fn a_file_of_its_own_is_shown_by_a_policy_of_its_own() {
        let known = Known::named("claude").unwrap();
        let chosen = Chosen {
            name: Name::parse("c").unwrap(),
            agent: Agent::Known(known, Program::Shown("/home/a b/claude: #1".into())),
            presets: vec!["npm".into()],
            providers: Vec::new(),
            workspace: None,
            token: String::new(),
        };
        let (name, text) = chosen.policy().unwrap();
        let presets = [policy::preset("npm").unwrap().preset().unwrap()];
        let candidate = policy::Candidate::new(&name, &text, &presets).unwrap();
        let shown = super::super::agents::shown(candidate.policy());
        assert!(shown.contains(&"/home/a b/claude: #1".into()) && shown.contains(&"/usr".into()));
        let config = Config::of_text(&chosen.text(), Path::new("c.yaml")).unwrap();
        assert_eq!(config.policy.as_deref(), Some(Path::new("./c-policy.yaml")));
        assert!(config.profile.is_none() && chosen.text_to_check().contains("profile: "));
    }
}
