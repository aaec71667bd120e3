//! Handshakes in memory: our server's side against our upstream side, which verifies as strictly as any
//! client.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::tls::upstream_config_with_roots;

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

/// What both sides make of one connection.
struct Agreed {
    alpn: Option<Vec<u8>>,
    kind: HandshakeKind,
    version: ProtocolVersion,
}

async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> Result<Agreed, std::io::Error> {
    let (near, far) = duplex(64 * 1024);
    let serving = tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"x").await?;
        stream.shutdown().await
    });
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connected = TlsConnector::from(client).connect(name, near).await;
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            serving.abort();
            return Err(error);
        }
    };
    // Reading takes in the ticket that follows the handshake.
    stream.read_exact(&mut [0]).await?;
    let (_, connection) = stream.get_ref();
    Ok(Agreed {
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        kind: connection.handshake_kind().unwrap(),
        version: connection.protocol_version().unwrap(),
    })
}

fn client(authority: &Authority) -> Arc<ClientConfig> {
    upstream_config_with_roots(vec![authority.certificate().clone()]).unwrap()
}

#[tokio::test]
async fn a_leaf_is_good_for_its_host_and_no_other() {
    let authority = Authority::generate().unwrap();
    let client = client(&authority);
    for (leaf, asked) in [
        ("api.github.com", "api.github.com"),
        ("93.184.216.34", "93.184.216.34"),
        ("2606:4700::1", "2606:4700::1"),
        (
            "_x.a-very-long-label-that-goes-on-and-on-and-on.a-very-long-label-that-goes-on.example",
            "_x.a-very-long-label-that-goes-on-and-on-and-on.a-very-long-label-that-goes-on.example",
        ),
    ] {
        let config = authority.server_config_for(&host(leaf), Alpn::H2OrHttp1).unwrap();
        let agreed = handshake(config, client.clone(), asked).await.unwrap();
        assert_eq!(agreed.version, ProtocolVersion::TLSv1_3);
        assert_eq!(agreed.alpn.as_deref(), Some(b"h2".as_slice()));
    }
    let config = authority.server_config_for(&host("api.github.com"), Alpn::H2OrHttp1).unwrap();
    assert!(handshake(config.clone(), client.clone(), "evil.example").await.is_err());
    assert!(handshake(config, client.clone(), "93.184.216.34").await.is_err());
    let config = authority.server_config_for(&host("93.184.216.34"), Alpn::H2OrHttp1).unwrap();
    assert!(handshake(config, client, "api.github.com").await.is_err());
}

#[tokio::test]
async fn a_client_without_this_authority_refuses() {
    let (authority, other) = (Authority::generate().unwrap(), Authority::generate().unwrap());
    let config = authority.server_config_for(&host("a.example"), Alpn::H2OrHttp1).unwrap();
    assert!(handshake(config, client(&other), "a.example").await.is_err());
}

#[tokio::test]
async fn an_opened_authority_serves_clients_of_the_sealed_one() {
    let authority = Authority::generate().unwrap();
    let opened = Authority::from_sealed_bytes(&authority.to_sealed_bytes()).unwrap();
    let config = opened.server_config_for(&host("a.example"), Alpn::Http1).unwrap();
    let agreed = handshake(config, client(&authority), "a.example").await.unwrap();
    assert_eq!(agreed.alpn.as_deref(), Some(b"http/1.1".as_slice()));
}

#[tokio::test]
async fn sessions_are_resumed() {
    let authority = Authority::generate().unwrap();
    let client = client(&authority);
    let config = authority.server_config_for(&host("a.example"), Alpn::H2OrHttp1).unwrap();
    let first = handshake(config.clone(), client.clone(), "a.example").await.unwrap();
    assert_eq!(first.kind, HandshakeKind::Full);
    let second = handshake(config, client, "a.example").await.unwrap();
    assert_eq!(second.kind, HandshakeKind::Resumed);
}

#[tokio::test]
async fn tls_1_2_is_spoken_too() {
    let authority = Authority::generate().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = authority.server_config_for(&host("a.example"), Alpn::H2OrHttp1).unwrap();
    let agreed = handshake(config, Arc::new(old), "a.example").await.unwrap();
    assert_eq!(agreed.version, ProtocolVersion::TLSv1_2);
}

#[test]
fn leaves_are_kept_until_they_grow_old() {
    let authority = Authority::generate().unwrap();
    let now = unix_now();
    let at = |now| authority.server_config_at(&host("a.example"), Alpn::H2OrHttp1, now).unwrap();
    let first = at(now);
    assert!(Arc::ptr_eq(&first, &at(now + 86_400)));
    let old = now + LEAF_LIFETIME.as_secs() - LEAF_RENEWAL.as_secs();
    let renewed = at(old);
    assert!(!Arc::ptr_eq(&first, &renewed), "renewed before it expires");
    assert!(Arc::ptr_eq(&renewed, &at(old + 1)));
    let http1 = authority.server_config_at(&host("a.example"), Alpn::Http1, now).unwrap();
    assert!(!Arc::ptr_eq(&renewed, &http1), "one for each choice of protocols");
}

#[test]
fn an_expired_authority_says_so() {
    let authority = Authority::generate().unwrap();
    let end = authority.not_after();
    let config = authority.server_config_at(&host("a.example"), Alpn::Http1, end - 1);
    assert!(config.is_ok());
    let config = authority.server_config_at(&host("b.example"), Alpn::Http1, end);
    assert!(matches!(config, Err(AuthorityError::Expired)));
    // What is in the cache ends with it.
    let config = authority.server_config_at(&host("a.example"), Alpn::Http1, end);
    assert!(matches!(config, Err(AuthorityError::Expired)));
}

#[test]
fn the_cache_is_bounded() {
    let authority = Authority::generate().unwrap();
    for n in 0..MAX_LEAVES + 200 {
        authority.server_config_for(&host(&format!("h{n}.example")), Alpn::Http1).unwrap();
    }
    authority.leaves.cache.run_pending_tasks();
    assert!(authority.leaves.cache.entry_count() <= MAX_LEAVES);
}
