//! A link to another tile beside which news of peers may wait: that a link is open or gone is
//! never dropped, and nothing overtakes it.

use std::collections::VecDeque;

use hufu_runtime::link::Producer;

/// See the module. What waits is at most some items for each connection, since nobody is dialled or
/// accepted while it is not clear.
#[derive(Debug)]
pub(super) struct Outlet<T> {
    link: Producer<T>,
    waiting: VecDeque<T>,
}

impl<T> Outlet<T> {
    pub(super) const fn new(link: Producer<T>) -> Self {
        Self { link, waiting: VecDeque::new() }
    }

    /// Passes on what must arrive, now or when there is room.
    pub(super) fn tell(&mut self, news: T) {
        self.waiting.push_back(news);
        self.flush();
    }

    /// Passes a message on if nothing waits and there is room.
    ///
    /// # Errors
    /// The message.
    pub(super) fn offer(&mut self, message: T) -> Result<(), T> {
        if self.is_clear() { self.link.try_push(message) } else { Err(message) }
    }

    /// Whether nothing waits.
    pub(super) fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tries again with what waits; says whether anything left.
    pub(super) fn flush(&mut self) -> bool {
        let before = self.waiting.len();
        while let Some(news) = self.waiting.pop_front() {
            if let Err(news) = self.link.try_push(news) {
                self.waiting.push_front(news);
                break;
            }
        }
        self.waiting.len() < before
    }
}
