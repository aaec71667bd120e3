//! What `cofferdam term` shows, and what its keys do: a model, a pure update, and a view of the model.
//!
//! It knows no socket, no process and no clock. Whoever has those turns what happens into a [`Message`],
//! gives it to [`Model::update`], does the [`Effect`] that comes back, and draws. Nothing that an agent could
//! have chosen gets into the model but as a [`Text`], which is made harmless when it is made; so no view can
//! forget to.

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
