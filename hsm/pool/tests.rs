//! The rules of the pool, over a token whose failures are a script and whose clock is a number.

mod recovery;
mod scripted;
mod sharing;
