//! Which way a connection takes, and what an upstream proxy may answer.

use super::*;

fn exempt(entries: &[&str]) -> Routes {
    struct Nobody;
    impl Lookup for Nobody {
        fn addresses<'a>(
            &'a self,
            _: &'a DomainName,
        ) -> futures_util::future::BoxFuture<'a, Result<Vec<IpAddr>, crate::guard::LookupError>> {
            Box::pin(async { Err(crate::guard::LookupError::NotFound) })
        }
    }
    let at = (Host::parse("proxy.corp").unwrap(), 3128);
    let exempt = entries.iter().map(|entry| Exempt::parse(entry).unwrap()).collect();
    Routes::through(UpstreamProxy::new(at, None, exempt, Resolve::Local, Arc::new(Nobody)))
}

#[test]
fn only_what_is_exempt_goes_straight() {
    let routes = exempt(&["api.corp", ".intra.corp", "10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]);
    for (host, straight) in [
        ("api.corp", true),
        ("x.api.corp", false),
        ("myapi.corp", false),
        ("a.intra.corp", true),
        ("a.b.intra.corp", true),
        ("intra.corp", false),
        ("notintra.corp", false),
        ("10.1.2.3", true),
        ("11.1.2.3", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("[2001:db8::1]", true),
        ("127.0.0.1", true),
        ("[::1]", true),
        ("localhost", true),
        ("a.localhost", true),
        (HOST_NAME, true),
        ("api.github.com", false),
    ] {
        let route = routes.to(&Host::parse(host).unwrap());
        assert_eq!(matches!(route, Route::Straight), straight, "{host}");
    }
    let by = |addresses: &[&str]| {
        let route = routes.to(&Host::parse("up.test").unwrap());
        matches!(route.given(addresses.iter().map(|a| a.parse().unwrap())), Route::Straight)
    };
    assert!(by(&["10.0.0.1", "10.2.0.1"]));
    assert!(!by(&["10.0.0.1", "11.2.0.1"]) && !by(&["11.0.0.1"]) && !by(&[]));
    assert!(matches!(Routes::default().to(&Host::parse("a.test").unwrap()), Route::Straight));
    for wrong in ["*", "*.corp", "a b", "", ".", "10.0.0.0/99", "http://a"] {
        assert!(Exempt::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_internal_name_that_nobody_resolves_here_needs_the_policys_word() {
    let rule = |exact_host| AddressRule { allowed_ips: Arc::from([]), exact_host };
    let judge = |name: &str, rule: &AddressRule| judge_unresolved(&DomainName::parse(name).unwrap(), rule);
    for (name, wildcard, exact) in [
        ("api.github.com", true, true),
        ("git.corp", false, true),
        ("db.prod.internal", false, true),
        ("printer", false, true),
        ("metadata.google.internal", false, false),
        ("x.metadata.google.internal", false, false),
        ("instance-data.ec2.internal", false, false),
        ("metadata.tencentyun.com", false, false),
    ] {
        assert_eq!(judge(name, &rule(false)).is_ok(), wildcard, "{name}");
        assert_eq!(judge(name, &rule(true)).is_ok(), exact, "{name}");
    }
    let listed = AddressRule { allowed_ips: Arc::from(["10.0.0.0/8".parse().unwrap()]), exact_host: true };
    assert!(judge("api.github.com", &listed).is_err());
}

#[test]
fn only_a_status_line_counts() {
    assert_eq!(status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
    assert_eq!(status(b"HTTP/1.0 407 No\r\nA: b\r\n\r\n"), Some(407));
    for wrong in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1 2000 x\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 200"] {
        assert_eq!(status(wrong), None);
    }
}

#[tokio::test]
async fn what_follows_the_answer_stays_in_the_socket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for cut in [1, 10, 37, 39, 41] {
        let mut near = TcpStream::connect(address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let writing = tokio::spawn(async move {
            let said = b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0-x";
            far.set_nodelay(true).unwrap();
            far.write_all(&said[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            far.write_all(&said[cut..]).await.unwrap();
        });
        let head = answer(&mut near).await.unwrap();
        assert_eq!(status(&head), Some(200));
        let mut rest = String::new();
        near.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "SSH-2.0-x");
        writing.await.unwrap();
    }
}
