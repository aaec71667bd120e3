//! What fields are read as, and what can't be read.

use super::*;

/// Where a field of a request for `own` leads, as a URL without its scheme.
fn found(form: Form, value: &str, own: (&str, &str)) -> Option<String> {
    let here = Destination { host: Host::parse(own.0).unwrap(), port: 443 };
    let place = Place::read(&HeaderValue::from_str(value).unwrap(), form, own.1)?;
    let (to, path) = place.found(&here)?;
    let at = if *to == here { String::new() } else { to.to_string() };
    Some(format!(
        "{at}{}{}",
        path.as_str(),
        place.query.as_str().map(|q| format!("?{q}")).unwrap_or_default()
    ))
}

#[test]
fn paths_and_urls_are_read_and_nothing_else() {
    let read = |value: &str| found(Form::Path, value, ("dav.test", "/x"));
    for (value, wanted) in [
        ("/a/b", "/a/b"),
        ("a/b", "/a/b"),
        ("/a/", "/a/"),
        ("/a%20b?x=1", "/a%20b?x=1"),
        ("https://A.test/x", "a.test:443/x"),
        ("http://a.test:8080/x?y=1", "a.test:8080/x?y=1"),
    ] {
        assert_eq!(read(value).as_deref(), Some(wanted), "{value}");
    }
    for value in [
        "",
        "//a.test/x",
        "ftp://a.test/x",
        "https://u@a.test/x",
        "https://",
        "bucket%2Fkey",
        "/a/%2e%2e%2fb",
        "/../a",
        "arn:aws:s3:::a/b",
        "/a b",
    ] {
        assert_eq!(read(value), None, "{value}");
    }
}

/// The field is sent as it came, so a value in which a rule would see another path than a server might can't
/// be judged.
#[test]
fn what_a_rule_would_read_otherwise_than_a_server_is_refused() {
    for value in [
        "/a#/../b",
        "https://a.test/a#b",
        "/a;b",
        "/a/../b",
        "/a/./b",
        "/a/%2E%2e/b",
        "/a/.",
        "/a//b",
        "/a/b//",
    ] {
        for form in [Form::Path, Form::Container, Form::Bucket, Form::Hosted] {
            assert_eq!(found(form, value, ("a.test", "/x")), None, "{value}");
        }
    }
    for value in ["b/k?x", "b/k?versionId=1&x=2", "b/k?versionId=/../x", "b/k?"] {
        assert_eq!(found(Form::Bucket, value, ("a.test", "/x")), None, "{value}");
    }
}

#[test]
fn a_bucket_is_a_host_where_hosts_are_buckets() {
    for (host, value, wanted) in [
        ("s3.eu-west-1.amazonaws.com", "other/k", "/other/k"),
        ("store.test", "/other/k?versionId=1", "/other/k?versionId=1"),
        ("10.0.0.1", "other/k", "/other/k"),
        ("mine.s3.eu-west-1.amazonaws.com", "mine/a/k", "/a/k"),
        ("mine.s3.eu-west-1.amazonaws.com", "other/a/k", "other.s3.eu-west-1.amazonaws.com:443/a/k"),
        ("s3.mine.s3-us-west-2.amazonaws.com", "other/k", "other.s3-us-west-2.amazonaws.com:443/k"),
        (
            "mine.storage.googleapis.com",
            "other/k?versionId=1",
            "other.storage.googleapis.com:443/k?versionId=1",
        ),
        ("storage.googleapis.com", "other/k", "/other/k"),
        ("mine.tos-cn-beijing.volces.com", "/other/k", "other.tos-cn-beijing.volces.com:443/k"),
        ("mine.oss-cn-beijing.aliyuncs.com", "/other/k", "other.oss-cn-beijing.aliyuncs.com:443/k"),
        ("mine.nyc3.digitaloceanspaces.com", "other/k", "other.nyc3.digitaloceanspaces.com:443/k"),
        ("nyc3.digitaloceanspaces.com", "other/k", "/other/k"),
    ] {
        assert_eq!(found(Form::Bucket, value, (host, "/x")).as_deref(), Some(wanted), "{host} {value}");
    }
    assert_eq!(found(Form::Bucket, "no host/k", ("mine.s3.amazonaws.com", "/x")), None);
    assert_eq!(
        found(Form::Bucket, "a_/k", ("mine.s3.amazonaws.com", "/x")).as_deref(),
        Some("a_.s3.amazonaws.com:443/k")
    );
    let cos = "b-1.cos.ap-x.myqcloud.com/k";
    let wanted = Some("b-1.cos.ap-x.myqcloud.com:443/k");
    assert_eq!(found(Form::Hosted, cos, ("a-1.cos.ap-x.myqcloud.com", "/x")).as_deref(), wanted);
    assert_eq!(found(Form::Hosted, "k", ("a-1.cos.ap-x.myqcloud.com", "/x")), None);
}

#[test]
fn a_container_is_in_the_account_of_the_request() {
    for (form, own, value, wanted) in [
        (Form::Container, "/v1/AUTH_a/c/o", "/private/o", Some("/v1/AUTH_a/private/o")),
        (Form::Container, "/v1/a/c/o", "private/o", Some("/v1/a/private/o")),
        (Form::Container, "/swift", "private/o", Some("/private/o")),
        (Form::Path, "/v1/AUTH_a/c/o", "private/o", Some("/v1/AUTH_a/private/o")),
        (Form::Path, "/v1/files/o", "/v1/private/o", Some("/v1/private/o")),
        (Form::Unnamed, "/v1/AUTH_a/c/o", "AUTH_b", None),
    ] {
        assert_eq!(found(form, value, ("swift.test", own)).as_deref(), wanted, "{own} {value}");
    }
}

#[test]
fn every_field_in_every_spelling_with_its_method() {
    let mut headers = HeaderMap::new();
    for name in ["Destination", "X-Amz-Copy-Source", "x_ms_rename_source", "x-other", "X.OSS~Copy!Source"] {
        headers
            .insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("/x"));
    }
    headers.append("destination", HeaderValue::from_static("/y"));
    let own = canonical("/x").unwrap();
    let mut named: Vec<_> =
        named_in(&headers, "PUT", &own).into_iter().map(|second| (second.field, second.method)).collect();
    named.sort_by_key(|(field, _)| field.clone());
    let put = Cow::Borrowed("PUT");
    let wanted: [(Cow<'static, str>, _); 5] = [
        ("destination".into(), put.clone()),
        ("destination".into(), put.clone()),
        ("x-amz-copy-source".into(), "GET".into()),
        ("x-ms-rename-source".into(), put),
        ("x-oss-copy-source".into(), "GET".into()),
    ];
    assert_eq!(named, wanted);
}

#[test]
fn any_character_of_a_name_may_stand_for_a_dash() {
    for byte in b"!#$%&'*+-.^_`|~" {
        let name = "x-amz-copy-source".replace('-', &char::from(*byte).to_string());
        assert!(is_named_by(&name), "{name}");
    }
    assert!(!is_spelled("x-host", "x-hos-") && !is_spelled("x-host", "xxhost") && !is_spelled("te", "te-"));
}

/// Stores invent such fields by the dozen. Those that aren't in our table can't be judged, so they are
/// refused.
#[test]
fn a_field_of_the_shape_is_one_that_cant_be_read() {
    let own = canonical("/x").unwrap();
    let read = |name: &str| {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("/secret/x"))]);
        named_in(&headers, "PUT", &own).first().map(|second| (second.field.clone(), second.place.is_some()))
    };
    for name in [
        "x-oss-symlink-target",
        "X-Object-Manifest",
        "x-tos-symlink-target",
        "x-tos-symlink-bucket",
        "x-bce-copy-source",
        "x-qs-copy-source",
        "x-qs-move-source",
        "x-nos-move-source",
        "x-kss-copy-source",
        "x-new-rename-source",
        "x-new-copy-from",
        "X.Bce_Copy~Source",
        "x-symlink-target-account",
    ] {
        let dashed = name.to_lowercase().replace(['.', '_', '~'], "-");
        assert_eq!(read(name), Some((dashed.into(), false)), "{name}");
        assert!(is_named_by(&name.to_lowercase()), "{name}");
    }
    for name in ["x-ms-file-rename-source", "x-symlink-target", "x-tos-copy-source"] {
        assert_eq!(read(name), Some((name.into(), true)), "{name}");
    }
    for name in ["x-amz-meta-copy-source", "x-amz-copy-source-range", "x-source", "copy-sources", "-from"] {
        assert_eq!(read(name), None, "{name}");
    }
}
