//! What identifying a caller costs: the kernel's answer alone, a whole identification with warm caches, and
//! hashing.
//!
//! `cargo bench -p cofferdam-proxy --bench identity`
#![expect(clippy::expect_used, reason = "a bench whose set-up fails has nothing to measure")]

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cofferdam_proxy::identity::{
    Diag, ExecutableFile, Holder, HoldersError, Identifier, Look, Maker, Processes,
};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use futures_util::future::BoxFuture;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

fn main() {
    divan::main();
}

/// This very process, with one ancestor, as init would tell of an agent's.
struct Oneself;

impl Processes for Oneself {
    fn holders(&self, _: u64) -> BoxFuture<'_, Result<Vec<Holder>, HoldersError>> {
        Box::pin(async {
            Ok(vec![Holder {
                pid: 1,
                start_time: 1,
                exe: executable("/usr/bin/agent")?,
                foreign_code: false,
                ancestors: vec![executable("/usr/bin/parent")?],
            }])
        })
    }

    fn holders_and_maker(&self, inode: u64) -> BoxFuture<'_, Result<(Vec<Holder>, Maker), HoldersError>> {
        Box::pin(async move { Ok((self.holders(inode).await?, Maker::Holds(policy::Party::UNKNOWN))) })
    }
}

fn executable(path: &str) -> Result<ExecutableFile, HoldersError> {
    let file = File::open("/proc/self/exe").map_err(|e| HoldersError::Unreadable(e.to_string()))?;
    Ok(ExecutableFile { path: path.to_owned(), file: file.into(), deleted: false })
}

struct Connection {
    _client: TcpStream,
    _server: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
}

fn connection() -> Connection {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let (server, peer) = listener.accept().expect("connected");
    let local = server.local_addr().expect("connected");
    Connection { _client: client, _server: server, peer, local }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn netlink() -> OwnedFd {
    socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
        .expect("netlink")
}

#[divan::bench]
fn sock_diag_query(bencher: Bencher) {
    let (runtime, connection) = (runtime(), connection());
    let diag = runtime.block_on(async { Diag::new(netlink()) }).expect("netlink");
    bencher.bench_local(|| {
        runtime.block_on(diag.inode(black_box(connection.peer), connection.local)).expect("answered")
    });
}

#[divan::bench]
fn identify_cached(bencher: Bencher) {
    let (runtime, connection) = (runtime(), connection());
    let diag = runtime.block_on(async { Diag::new(netlink()) }).expect("netlink");
    let identifier = Identifier::new(Arc::new(Oneself), diag);
    bencher.bench_local(|| {
        runtime
            .block_on(identifier.judge(black_box(connection.peer), connection.local, Look::First))
            .expect("identified")
    });
}

#[divan::bench(args = [64 * 1024, 16 * 1024 * 1024])]
fn sha256(bencher: Bencher, bytes: usize) {
    let content = vec![7u8; bytes];
    bencher.counter(BytesCount::new(bytes)).bench_local(|| Sha256::digest(black_box(&content)));
}
