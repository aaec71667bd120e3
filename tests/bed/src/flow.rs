//! A body that is sent as it is made. Whatever was sent before its end arrives: `http_body_util`'s channel
//! (0.1) loses frames that come, with the sender's end behind them, between its two looks at what there is.

use std::io;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;

/// Where the body comes from; its end is the body's.
#[derive(Debug)]
pub(crate) struct Sender(mpsc::Sender<io::Result<Frame<Bytes>>>);

/// Nobody takes it any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// A body of which so many frames wait at most, and where they come from.
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

    /// Breaks off behind what was sent.
    pub(crate) async fn abort(self, error: io::Error) {
        let _gone = self.0.send(Err(error)).await;
    }
}
