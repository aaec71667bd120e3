//! The closed table of the endpoints of `inference.local`.
//!
//! The gateway itself answers any other path with 404; a request of an unknown shape is never sent to a
//! provider.

use std::borrow::Cow;

use http::{HeaderMap, Method, header};
use percent_encoding::percent_decode_str;

use crate::config::Kind;

/// An endpoint of `inference.local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /v1/models`: answered from the routes.
    Models,
    /// `GET /v1/models/{id}`: answered from the routes, too.
    Model,
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
}

/// Why a request has no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misshapen {
    /// No such path. Agents probe for servers they know (`/api/tags`, `/props`); a 404 is what they expect.
    UnknownPath,
    /// The path is known, the method isn't the one it takes.
    Method(&'static str),
    /// The query is none that the endpoint knows.
    Query,
    /// The body is not declared to be JSON.
    ContentType,
    /// The body is compressed, so it couldn't be judged.
    ContentEncoding,
}

const TABLE: [(&str, Endpoint); 7] = [
    ("/v1/models", Endpoint::Models),
    ("/v1/chat/completions", Endpoint::ChatCompletions),
    ("/v1/completions", Endpoint::Completions),
    ("/v1/responses", Endpoint::Responses),
    ("/v1/embeddings", Endpoint::Embeddings),
    ("/v1/messages", Endpoint::Messages),
    ("/v1/messages/count_tokens", Endpoint::CountTokens),
];

/// The path in front of a model's name. The name may hold slashes, raw or as `%2F`.
const MODEL: &str = "/v1/models/";

impl Endpoint {
    /// Finds the endpoint of a request and checks what can be checked before its body is read.
    ///
    /// # Errors
    /// The first thing that doesn't fit.
    pub fn judge(
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Self, Misshapen> {
        let endpoint = TABLE
            .iter()
            .find(|(known, _)| *known == path)
            .map(|(_, it)| *it)
            .or_else(|| Self::Model.model(path).map(|_| Self::Model))
            .ok_or(Misshapen::UnknownPath)?;
        if matches!(endpoint, Self::Models | Self::Model) {
            // The query is for paging through a long list; ours is short, so it is ignored.
            return if method == Method::GET { Ok(endpoint) } else { Err(Misshapen::Method("GET")) };
        }
        if method != Method::POST {
            return Err(Misshapen::Method("POST"));
        }
        if endpoint.upstream_query(query).is_none() {
            return Err(Misshapen::Query);
        }
        if !is_json(headers) {
            return Err(Misshapen::ContentType);
        }
        if headers.get_all(header::CONTENT_ENCODING).iter().any(|v| v.as_bytes() != b"identity") {
            return Err(Misshapen::ContentEncoding);
        }
        Ok(endpoint)
    }

    /// The query to send upstream for the agent's query: `Some("")` for none, `None` if the query isn't
    /// known.
    pub fn upstream_query(self, query: Option<&str>) -> Option<&'static str> {
        match (self, query) {
            (_, None | Some("")) => Some(""),
            (Self::Messages | Self::CountTokens, Some("beta=true")) => Some("?beta=true"),
            _ => None,
        }
    }

    /// The model that the path of [`Self::Model`] names; `None` for every other endpoint.
    pub fn model(self, path: &str) -> Option<Cow<'_, str>> {
        let id = path.strip_prefix(MODEL).filter(|id| self == Self::Model && !id.is_empty())?;
        percent_decode_str(id).decode_utf8().ok()
    }

    /// The endpoint's path; empty for [`Self::Model`], which is never sent to a provider.
    pub fn path(self) -> &'static str {
        TABLE.iter().find(|(_, it)| *it == self).map_or("", |(path, _)| path)
    }

    /// Whether a stream reports its usage only if `stream_options` asks for it.
    pub fn has_stream_options(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }

    /// Whether a model writes the answer, token by token.
    pub fn is_answered_in_tokens(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions | Self::Responses | Self::Messages)
    }

    /// Which kind of provider can answer it; `None` when the gateway answers itself.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Models | Self::Model => None,
            Self::Messages | Self::CountTokens => Some(Kind::Anthropic),
            _ => Some(Kind::Openai),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(one), None) = (values.next(), values.next()) else { return false };
    let Ok(text) = one.to_str() else { return false };
    let kind = text.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: &str, path: &str, query: Option<&str>, kind: &str) -> Result<Endpoint, Misshapen> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        Endpoint::judge(&method.parse().unwrap(), path, query, &headers)
    }

    #[test]
    fn table() {
        let json = "application/json; charset=utf-8";
        assert_eq!(judge("POST", "/v1/chat/completions", None, json), Ok(Endpoint::ChatCompletions));
        assert_eq!(judge("POST", "/v1/messages", Some("beta=true"), json), Ok(Endpoint::Messages));
        assert_eq!(judge("GET", "/v1/models", Some("limit=100"), "x/y"), Ok(Endpoint::Models));
        for path in [
            "/api/v1/models",
            "/api/tags",
            "/props",
            "/v1/props",
            "/version",
            "/v1/chat/completions/",
            "/v1/files",
            "/v1/models/",
            "/v1/models/%ff",
        ] {
            assert_eq!(judge("GET", path, None, json), Err(Misshapen::UnknownPath));
        }
        assert_eq!(judge("GET", "/v1/messages", None, json), Err(Misshapen::Method("POST")));
        assert_eq!(judge("POST", "/v1/messages", Some("beta=true&x=1"), json), Err(Misshapen::Query));
        assert_eq!(judge("POST", "/v1/responses", Some("beta=true"), json), Err(Misshapen::Query));
        assert_eq!(judge("POST", "/v1/responses", None, "text/plain"), Err(Misshapen::ContentType));
        assert_eq!(judge("post", "/v1/responses", None, json), Err(Misshapen::Method("POST")));
    }

    #[test]
    fn a_models_name_may_hold_anything() {
        for (path, id) in [
            ("/v1/models/small", "small"),
            ("/v1/models/meta/llama-3.1-8b", "meta/llama-3.1-8b"),
            ("/v1/models/meta%2Fllama-3.1-8b", "meta/llama-3.1-8b"),
            ("/v1/models/llama3:8b%20q", "llama3:8b q"),
        ] {
            assert_eq!(judge("GET", path, None, "x/y"), Ok(Endpoint::Model), "{path}");
            assert_eq!(Endpoint::Model.model(path).as_deref(), Some(id));
        }
        assert_eq!(Endpoint::Models.model("/v1/models/small"), None);
        assert_eq!(judge("DELETE", "/v1/models/small", None, "x/y"), Err(Misshapen::Method("GET")));
    }
}
