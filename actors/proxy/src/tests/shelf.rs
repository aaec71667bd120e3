//! Connections to upstreams that go from one connection of the agent to the next, and those that never do.

use std::sync::atomic::Ordering;

use http::Request;
use tokio::io::AsyncWriteExt;

use super::bed::{Bed, PATIENCE, Raw, exchange, read_head, rest};
use super::crowd::until;
use super::exchanges::bed_with_tls;
use crate::body::{Body, empty};
use crate::limits::MAX_SHELVED;
use crate::tls::Alpn;

fn get(target: &str) -> Request<Body> {
    Request::get("/ok/x").header("host", target).body(empty()).unwrap()
}

/// One request on a connection of its own, which has ended when this returns.
async fn ask(bed: &Bed, target: &str, request: Request<Body>) {
    let (head, stream) = bed.connect(target).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (answer, _) = exchange(stream, request).await;
    assert_eq!(answer.status, 200);
    until(|| bed.deps.tracker.connections() == 0).await;
}

/// Asks until a connection is left: a busy machine may take longer than one is kept.
async fn leaves(bed: &Bed, target: &str, request: impl Fn() -> Request<Body>) {
    let left = async {
        while bed.deps.shelf.is_empty() {
            ask(bed, target, request()).await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("one is left");
}

/// A bed and an upstream in the clear; a request has left its connection on the shelf.
async fn left() -> (Bed, Raw, String) {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let target = format!("up.test:{}", up.port);
    leaves(&bed, &target, || get(&target)).await;
    up.connections.store(1, Ordering::Relaxed);
    (bed, up, target)
}

#[tokio::test]
async fn the_next_connection_of_the_same_caller_goes_on_with_it() {
    for alpn in [Alpn::Http1, Alpn::H2OrHttp1] {
        let (bed, target, connections) = bed_with_tls(alpn).await;
        let ride = async || {
            let before = connections.load(Ordering::Relaxed);
            let stream = bed.tls(&target, &[b"http/1.1"]).await;
            assert_eq!(exchange(stream, get(&target)).await.0.status, 200);
            until(|| bed.deps.tracker.connections() == 0).await;
            connections.load(Ordering::Relaxed) - before
        };
        assert_eq!(ride().await, 1);
        let another = async {
            // One that came too late, on a busy machine, opens another.
            while ride().await > 0 {}
        };
        tokio::time::timeout(PATIENCE, another).await.expect("one goes on with the connection before");
    }
}

#[tokio::test]
async fn no_other_caller_gets_it() {
    let (bed, up, target) = left().await;
    let who = &bed.who;
    let mut opened = 1;
    let mut opens_another = async |what: &str| {
        ask(&bed, &target, get(&target)).await;
        opened += 1;
        assert_eq!(up.connections.load(Ordering::Relaxed), opened, "{what} got another caller's");
    };
    who.party.store(7, Ordering::Relaxed);
    opens_another("another agent").await;
    who.ancestor.store(true, Ordering::Relaxed);
    opens_another("a program that another has started").await;
}

#[tokio::test]
async fn one_that_a_user_is_authenticated_on_is_nobody_elses() {
    for scheme in ["Negotiate YIIJvw", "nTLM TlRM"] {
        let (bed, up, target) = left().await;
        let mut request = get(&target);
        request.headers_mut().insert("authorization", scheme.parse().unwrap());
        ask(&bed, &target, request).await;
        assert!(bed.deps.shelf.is_empty(), "{scheme}");
        assert!(up.seen().contains(scheme), "the control: it has arrived");
    }
    // The control: a token is the request's alone.
    let (bed, _, target) = left().await;
    until(|| bed.deps.shelf.is_empty()).await;
    let with_token = || {
        let mut request = get(&target);
        request.headers_mut().insert("authorization", "Bearer negotiate".parse().unwrap());
        request
    };
    leaves(&bed, &target, with_token).await;
}

#[tokio::test]
async fn what_nobody_takes_is_closed() {
    let (bed, ..) = left().await;
    until(|| bed.deps.shelf.is_empty()).await;
}

#[tokio::test]
async fn a_rule_for_other_addresses_takes_none() {
    let (bed, up, target) = left().await;
    let arrived = up.seen().matches("GET ").count();
    bed.reload(&rest("up.test", up.port).replace("protocol:", "allowed_ips: [ 10.9.0.0/24 ], protocol:"));
    let (mut head, mut stream) = bed.connect(&target).await;
    if head.starts_with("HTTP/1.1 200") {
        stream.write_all(format!("GET /ok/x HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await.unwrap();
        head = read_head(&mut stream).await;
    }
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert_eq!(up.seen().matches("GET ").count(), arrived);
}

#[tokio::test]
async fn there_are_only_so_many() {
    let mut endpoints = Vec::new();
    let mut ups = Vec::new();
    for _ in 0..MAX_SHELVED + 4 {
        let up = Raw::ok().await;
        endpoints.push(rest("up.test", up.port));
        ups.push(up);
    }
    let bed = Bed::new(&endpoints.join("\n")).await;
    for up in &ups {
        let target = format!("up.test:{}", up.port);
        ask(&bed, &target, get(&target)).await;
        assert!(bed.deps.shelf.len() <= MAX_SHELVED);
    }
}
