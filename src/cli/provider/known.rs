//! The model servers and services that are known: their ports, variables and URLs.
//!
//! Only data. A name is a suggestion for `inference.providers`; an address is the one that the service itself
//! publishes.

use gateway::config::{Kind, StreamUsage};

/// A server that people run on their own machine.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// The port on which it listens by default.
    pub port: u16,
    /// The name that its entry gets.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
}

/// Each speaks OpenAI's protocol.
pub const SERVERS: [Server; 2] = [
    Server { port: 8000, name: "local", what: "a model server (vLLM's port)" },
    Server { port: 11434, name: "ollama", what: "a model server (Ollama's port)" },
];

/// A service whose key people have in their environment.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// The variable that its own client library reads.
    pub variable: &'static str,
    /// The variable that sends the same library, and the key with it, to another server.
    pub elsewhere: Option<&'static str>,
    /// The name that its entry gets.
    pub name: &'static str,
    /// Its protocol.
    pub kind: Kind,
    /// Its base URL.
    pub base_url: &'static str,
    /// Whether it may be asked to report what a stream used.
    pub stream_usage: StreamUsage,
}

const fn openai(variable: &'static str, name: &'static str, base_url: &'static str) -> Service {
    Service { variable, elsewhere: None, name, kind: Kind::Openai, base_url, stream_usage: StreamUsage::Ask }
}

/// The known services, in the order in which they are offered.
pub const SERVICES: [Service; 9] = [
    Service {
        variable: "ANTHROPIC_API_KEY",
        elsewhere: Some("ANTHROPIC_BASE_URL"),
        name: "anthropic",
        kind: Kind::Anthropic,
        base_url: "https://api.anthropic.com",
        stream_usage: StreamUsage::Ask,
    },
    Service {
        elsewhere: Some("OPENAI_BASE_URL"),
        ..openai("OPENAI_API_KEY", "openai", "https://api.openai.com/v1")
    },
    openai("NVIDIA_API_KEY", "nvidia", "https://integrate.api.nvidia.com/v1"),
    openai("OPENROUTER_API_KEY", "openrouter", "https://openrouter.ai/api/v1"),
    openai("GROQ_API_KEY", "groq", "https://api.groq.com/openai/v1"),
    openai("TOGETHER_API_KEY", "together", "https://api.together.xyz/v1"),
    openai("DEEPSEEK_API_KEY", "deepseek", "https://api.deepseek.com/v1"),
    openai("XAI_API_KEY", "xai", "https://api.x.ai/v1"),
    Service {
        // It refuses requests with `stream_options`.
        stream_usage: StreamUsage::Leave,
        ..openai("MISTRAL_API_KEY", "mistral", "https://api.mistral.ai/v1")
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::base_url::BaseUrl;
    use redactor::Reference;

    #[test]
    fn each_can_stand_in_a_configuration() {
        for service in SERVICES {
            assert!(BaseUrl::parse(service.base_url).unwrap().tls, "{}", service.name);
            assert!(Reference::parse(&format!("env:{}", service.variable)).is_ok());
        }
        let names: std::collections::BTreeSet<&str> =
            SERVICES.iter().map(|it| it.name).chain(SERVERS.iter().map(|it| it.name)).collect();
        assert_eq!(names.len(), SERVICES.len() + SERVERS.len());
    }
}
