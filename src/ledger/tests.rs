//! Tests of the whole crate: the rules one by one, a model that knows nothing of their
//! implementation, the root, the buckets under it.

mod buckets;
mod differential;
mod fixture;
mod model;
mod roots;
mod rules;
