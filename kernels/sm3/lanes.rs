//! Many messages in the lanes of one vector, kept full although lengths differ.
//!
//! Each lane works on one message: first its whole blocks where they lie, then its padded tail. All
//! lanes run until the first of them reaches the end of its part; a lane whose message is done
//! hands out the digest and takes the next message. When fewer than [`LIVE_MIN`] lanes have work
//! left, the rest is done one stream at a time, which is faster than a vector of mostly idle lanes.

use super::{BLOCK_SIZE, Block, Bytes32, INITIAL, Tail, digest_of, portable};

/// Below this number of messages the lanes do not pay.
const LIVE_MIN: usize = 2;

/// Word j of the states of all lanes stands in row j: the shape vectors are loaded from.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct States<const L: usize>(pub(super) [[u32; L]; 8]);

impl<const L: usize> States<L> {
    pub(super) const fn new() -> Self {
        Self([[0; L]; 8])
    }

    fn set(&mut self, lane: usize, state: &[u32; 8]) {
        for (row, word) in self.0.iter_mut().zip(state) {
            row[lane] = *word;
        }
    }

    fn get(&self, lane: usize) -> [u32; 8] {
        self.0.each_ref().map(|row| row[lane])
    }
}

/// A message on its way through a lane.
struct Stream<'m> {
    /// Its place in the list.
    place: usize,
    whole: &'m [Block],
    tail: Tail,
    /// Blocks of it that are done.
    done: usize,
}

impl<'m> Stream<'m> {
    fn new(place: usize, message: &'m [u8]) -> Self {
        let (whole, rest) = message.as_chunks::<BLOCK_SIZE>();
        Self { place, whole, tail: Tail::new(rest, message.len()), done: 0 }
    }

    /// The blocks that lie in a row from here on; never empty before the end.
    fn part(&self) -> &[Block] {
        match self.done.checked_sub(self.whole.len()) {
            None => &self.whole[self.done..],
            Some(done) => &self.tail.blocks()[done..],
        }
    }

    fn is_done(&self) -> bool {
        self.done == self.whole.len() + self.tail.count
    }
}

/// SM3 of every message. `compress(states, parts, count)` runs the first `count` blocks of each
/// part through its lane.
pub(super) fn digest_many<const L: usize>(
    messages: &[&[u8]],
    digests: &mut [Bytes32],
    mut compress: impl FnMut(&mut States<L>, &[&[Block]; L], usize),
) {
    if messages.len() < LIVE_MIN {
        return portable::digest_many(messages, digests);
    }
    let mut coming =
        messages.iter().enumerate().map(|(place, message)| Stream::new(place, message));
    let mut states = States::new();
    let mut streams: [Option<Stream<'_>>; L] = core::array::from_fn(|lane| {
        states.set(lane, &INITIAL);
        coming.next()
    });
    let mut live = streams.iter().flatten().count();
    while live >= LIVE_MIN {
        let shortest = streams.iter().flatten().map(Stream::part).min_by_key(|part| part.len());
        let shortest = shortest.unwrap_or_default();
        // An idle lane computes along on what is at hand; nobody reads its state.
        let parts = streams.each_ref().map(|stream| stream.as_ref().map_or(shortest, Stream::part));
        let count = shortest.len();
        assert!(count > 0, "a stream that is done has left its lane");
        compress(&mut states, &parts, count);
        for (lane, slot) in streams.iter_mut().enumerate() {
            let Some(stream) = slot else { continue };
            stream.done += count;
            if stream.is_done() {
                digests[stream.place] = digest_of(&states.get(lane));
                states.set(lane, &INITIAL);
                *slot = coming.next();
                live -= usize::from(slot.is_none());
            }
        }
    }
    for (lane, stream) in streams.iter_mut().enumerate() {
        let Some(stream) = stream else { continue };
        let mut state = states.get(lane);
        while !stream.is_done() {
            let part = stream.part();
            portable::compress(&mut state, part);
            stream.done += part.len();
        }
        digests[stream.place] = digest_of(&state);
    }
    assert!(coming.next().is_none(), "a lane is idle only when no message waits");
}

/// SM3 of messages of one block. `compress_pairs(pairs, states)` hashes a full vector of them.
pub(super) fn digest_pairs<const L: usize>(
    pairs: &[Block],
    parents: &mut [Bytes32],
    mut compress_pairs: impl FnMut(&[Block; L], &mut States<L>),
) {
    let mut states = States::new();
    let (vectors, rest) = pairs.as_chunks::<L>();
    let (parents, parents_rest) = parents.split_at_mut(pairs.len() - rest.len());
    for (vector, parents) in vectors.iter().zip(parents.as_chunks_mut::<L>().0) {
        compress_pairs(vector, &mut states);
        for (lane, parent) in parents.iter_mut().enumerate() {
            *parent = digest_of(&states.get(lane));
        }
    }
    if rest.len() < LIVE_MIN {
        return portable::digest_pairs(rest, parents_rest);
    }
    let vector = core::array::from_fn(|lane| rest.get(lane).copied().unwrap_or([0; BLOCK_SIZE]));
    compress_pairs(&vector, &mut states);
    for (lane, parent) in parents_rest.iter_mut().enumerate() {
        *parent = digest_of(&states.get(lane));
    }
}
