//! What `cofferdam term` shows, and what its keys do: a model, a pure update, and a view of the model.
//!
//! This crate knows no socket, no process and no clock. Its caller turns what happens into a [`Message`],
//! gives it to [`Model::update`], carries out the [`Effect`] that comes back, and draws. Whatever an agent
//! could have chosen enters the model only as a [`Text`], which is made harmless at its construction, so that
//! no view can forget to.

pub mod dialog;
pub mod facts;
pub mod input;
pub mod keys;
mod list;
pub mod message;
pub mod model;
pub mod screen;
pub mod text;
mod theme;
mod update;
mod view;
mod watch;

#[cfg(test)]
mod tests;

pub use message::{Effect, Message};
pub use model::Model;
pub use text::Text;
pub use watch::EVENTS_KEPT;
