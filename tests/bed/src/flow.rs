//! A body that is sent as it is made. Everything sent before its end arrives. `http_body_util`'s channel
//! (0.1) doesn't guarantee that: it checks for frames and for the sender's end separately, and loses frames
//! that arrive, followed by the end, between the two checks.

use std::io;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;

/// The sending side; dropping it ends the body.
#[derive(Debug)]
pub(crate) struct Sender(mpsc::Sender<io::Result<Frame<Bytes>>>);

/// The receiver is gone.
#[derive(Debug)]
pub(crate) struct Gone;

/// Makes a body with at most `in_flight` queued frames, and its sender.
pub(crate) fn flow(
    in_flight: usize,
) -> (Sender, impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static) {
    let (sender, mut frames) = mpsc::channel(in_flight);
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    (Sender(sender), StreamBody::new(stream))
}

impl Sender {
    pub(crate) async fn send_data(&mut self, data: Bytes) -> Result<(), Gone> {
        self.0.send(Ok(Frame::data(data))).await.map_err(|_| Gone)
    }

    pub(crate) async fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Gone> {
        self.0.send(Ok(Frame::trailers(trailers))).await.map_err(|_| Gone)
    }

    /// Breaks the body off behind what was sent.
    pub(crate) async fn abort(self, error: io::Error) {
        let _gone = self.0.send(Err(error)).await;
    }
}
