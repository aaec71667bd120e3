//! Only one sandbox may have a name, and nothing that another user put in a state directory is taken for
//! ours.

use super::*;

#[test]
fn a_name_is_claimed_once_and_free_again_when_its_lock_closes() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::locate(Some(dir.path())).unwrap();
    let name = Name::parse("one").unwrap();
    let first = root.claim(&name, "--name").unwrap();
    let refused = root.claim(&name, "--name").unwrap_err();
    assert!(refused.message.contains(&std::process::id().to_string()), "{}", refused.message);
    let second = root.claim_numbered(&name).unwrap();
    assert_eq!(second.name.as_str(), "one-2");
    drop(first);
    assert!(root.claim(&name, "--name").is_ok());
}

#[test]
fn what_others_left_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::locate(Some(dir.path())).unwrap();
    let kept = dir.path().join("kept");
    fs::write(&kept, "precious").unwrap();
    let name = Name::parse("one").unwrap();
    fs::create_dir(root.instance(&name)).unwrap();
    for plant in [
        &(|lock: &Path| std::os::unix::fs::symlink(&kept, lock)) as &dyn Fn(&Path) -> io::Result<()>,
        &|lock| fs::hard_link(&kept, lock),
        &|lock| nix::unistd::mkfifo(lock, nix::sys::stat::Mode::S_IRWXU).map_err(Into::into),
    ] {
        let lock = root.instance(&name).join(files::LOCK);
        plant(&lock).unwrap();
        assert!(root.claim(&name, "--name").is_err());
        fs::remove_file(lock).unwrap();
    }
    let two = Name::parse("two").unwrap();
    std::os::unix::fs::symlink(root.instance(&name), root.instance(&two)).unwrap();
    assert!(root.claim(&two, "--name").is_err());
    assert_eq!(fs::read_to_string(kept).unwrap(), "precious");
    assert!(root.claim(&name, "--name").is_ok());
}

#[test]
fn state_is_hidden_where_it_is_and_where_it_will_be() {
    let dir = tempfile::tempdir().unwrap();
    let there = fs::canonicalize(dir.path()).unwrap();
    fs::create_dir(there.join("state")).unwrap();
    std::os::unix::fs::symlink("state", there.join("link")).unwrap();
    assert_eq!(real(&there.join("link")), there.join("state"));
    assert_eq!(real(&there.join("link/cofferdam")), there.join("state/cofferdam"));
    let hidden = Root(there.join("link/not-yet")).every_place();
    assert_eq!(hidden.seen_at(&there.join("state")), Some(there.join("state/not-yet").as_path()));
    assert_eq!(hidden.seen_at(&there.join("other")), None);
}

#[test]
fn a_start_that_fails_leaves_nothing_that_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::locate(Some(dir.path())).unwrap();
    let name = Name::parse("one").unwrap();
    let mut claim = root.claim(&name, "--name").unwrap();
    let _listener = claim.listen(CONTROL_SOCKET).unwrap();
    fs::create_dir(claim.dir.join(files::WORKSPACE)).unwrap();
    drop(claim);
    assert!(!root.instance(&name).exists());

    // What someone has worked in stays, and so does what was there before.
    let claim = root.claim(&name, "--name").unwrap();
    fs::create_dir(claim.dir.join(files::WORKSPACE)).unwrap();
    fs::write(claim.dir.join("workspace/work"), "").unwrap();
    drop(claim);
    assert!(root.instance(&name).join("workspace/work").exists());
    // So does one that was handed over and in which something started.
    fs::remove_dir_all(root.instance(&name)).unwrap();
    let (lock, made) = root.claim(&name, "--name").unwrap().hand_over();
    made.keep();
    drop(lock);
    assert!(root.instance(&name).join(files::LOCK).exists());
    // A socket goes from a directory that was there before, too.
    let mut claim = root.claim(&name, "--name").unwrap();
    let _listener = claim.listen(CONTROL_SOCKET).unwrap();
    let (_lock, made) = claim.hand_over();
    assert!(root.socket(&name).exists());
    drop(made);
    assert!(!root.socket(&name).exists());
    assert!(root.instance(&name).join(files::LOCK).exists());
}

#[test]
fn the_socket_works_however_deep_the_directory_lies() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(200));
    let root = Root::locate(Some(&deep)).unwrap();
    let name = Name::parse("deep").unwrap();
    let mut claim = root.claim(&name, "--name").unwrap();
    let _listener = claim.listen(CONTROL_SOCKET).unwrap();
    assert!(root.is_running(&name));
    assert!(!root.is_running(&Name::parse("other").unwrap()));
}

/// A supervisor that is stopped accepts nobody, and every `ps` leaves one more in its queue.
#[test]
fn a_full_queue_is_a_sandbox_that_runs_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::locate(Some(dir.path())).unwrap();
    let name = Name::parse("full").unwrap();
    let mut claim = root.claim(&name, "--name").unwrap();
    let listener = claim.listen(CONTROL_SOCKET).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        match root.connect(&name) {
            Ok(stream) if waiting.len() < 100 => waiting.push(stream),
            Ok(_) => panic!("the queue is never full"),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    assert!(root.is_running(&name));
    let ours = Pid::from_raw(i32::try_from(std::process::id()).unwrap());
    assert_eq!(root.heart(&name).unwrap(), ours, "by the lock");
    waiting.clear();
    while listener.accept().is_ok() && root.connect(&name).is_err() {}
    assert_eq!(root.heart(&name).unwrap(), ours, "by the socket");
}

#[test]
fn a_start_beside_a_removal_gets_the_name_or_hears_that_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::locate(Some(dir.path())).unwrap();
    let name = Name::parse("one").unwrap();
    std::thread::scope(|scope| {
        let starts = scope.spawn(|| {
            for _ in 0..500 {
                match root.claim(&name, "--name") {
                    Ok(claim) => {
                        let (_lock, made) = claim.hand_over();
                        made.keep();
                    }
                    Err(refused) => assert!(refused.message.contains("is in use"), "{}", refused.message),
                }
            }
        });
        while !starts.is_finished() {
            if let Err(refused) = root.remove(&name) {
                let is_known =
                    ["there is no sandbox", "is in use"].iter().any(|why| refused.message.contains(why));
                assert!(is_known, "{}", refused.message);
            }
        }
    });
}
