//! Asks an agent whether it still answers: one HTTP/1.1 request to the agent's own port inside the sandbox.
//!
//! The answer comes from whatever the agent runs, so it is hostile: only the status is read, from a head of
//! bounded length, in a bounded time. No other request takes this way, and nothing but the status is
//! reported.

use std::sync::Arc;
use std::time::Duration;

use agent::InitClient;
use agent::health::{Probe, Watch};
use futures_util::future::BoxFuture;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;

use crate::config::{Health, HealthUrl};

/// Bytes of an answer's head at most.
const HEAD_MAX: usize = 16 << 10;

/// Returns the watch that the configuration's health check describes.
pub fn watch(health: &Health, init: &InitClient) -> Watch {
    let question = Question { url: health.http.clone(), timeout: health.timeout, init: init.clone() };
    Watch { probe: Arc::new(question), every: health.every, failures: health.failures, start: health.start }
}

struct Question {
    url: HealthUrl,
    timeout: Duration,
    init: InitClient,
}

impl Probe for Question {
    fn ask(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let status = tokio::time::timeout(self.timeout, self.status()).await;
            let within = humantime::format_duration(self.timeout);
            match status.map_err(|_| format!("no answer within {within}"))?? {
                good if good.is_success() || good.is_redirection() => Ok(()),
                bad => Err(format!("answered {}", bad.as_u16())),
            }
        })
    }
}

impl Question {
    async fn status(&self) -> Result<http::StatusCode, String> {
        let stream =
            self.init.connect_tcp(self.url.address).await.map_err(|e| format!("no connection: {e}"))?;
        let no_answer = |error: hyper::Error| format!("no answer: {error}");
        let (mut client, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(no_answer)?;
        let request = http::Request::get(&self.url.target)
            .header(http::header::HOST, self.url.address.to_string())
            .header(http::header::USER_AGENT, "cofferdam")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| error.to_string())?;
        let mut answer = std::pin::pin!(client.send_request(request));
        // Both the request and the connection are dropped with this probe: nothing else that the agent sends
        // is read.
        let answer = tokio::select! {
            answer = &mut answer => answer,
            // The agent may have answered and closed the connection at once.
            _ = connection => answer.await,
        };
        Ok(answer.map_err(no_answer)?.status())
    }
}
