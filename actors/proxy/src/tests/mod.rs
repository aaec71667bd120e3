//! The engine as a whole, over real sockets on the loopback: a proxy, upstreams that record what reaches
//! them, and clients that are hostile, ordinary or slow. Every refusal stands beside a living positive
//! control.

mod approvals;
mod attacks;
pub(crate) mod bed;
mod bodies;
mod captured;
mod credentials;
mod crowd;
mod ends;
mod exchanges;
mod gone;
mod hands;
mod interim;
mod live;
mod protocols;
mod shelf;
mod stalls;
mod tunnels;
mod turned_away;
mod websockets;
