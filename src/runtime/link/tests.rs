use std::time::Duration;

use super::*;
use crate::wake::Parker;

#[test]
fn a_full_link_gives_the_item_back() {
    let (mut producer, mut consumer) = link("test", 2);
    assert_eq!(producer.free(), 2);
    assert_eq!(producer.try_push(1), Ok(()));
    assert_eq!(producer.try_push(2), Ok(()));
    assert_eq!(producer.try_push(3), Err(3));
    assert_eq!(producer.free(), 0);
    assert_eq!(consumer.peek(), Some(&1));
    assert_eq!(consumer.pop(), Some(1));
    assert_eq!(producer.try_push(3), Ok(()));
    let mut taken = Vec::new();
    assert_eq!(consumer.drain(9, |item| taken.push(item)), 2);
    assert_eq!(taken, [2, 3]);
    assert_eq!(consumer.pop(), None);
    let stats = producer.stats();
    let counts = (stats.pushed(), stats.popped(), stats.full(), stats.queued(), stats.discarded());
    assert_eq!(counts, (3, 3, 1, 0, 0));
    assert_eq!((stats.name(), stats.depth()), ("test", 2));
}

#[test]
fn a_batch_takes_only_what_fits_from_the_iterator() {
    let (mut producer, mut consumer) = link("test", 4);
    let mut items = 0..10;
    assert_eq!(producer.push_batch(&mut items), 4);
    assert_eq!(producer.push_batch(&mut items), 0);
    assert_eq!(items.next(), Some(4), "an item was taken without room for it");
    assert_eq!(consumer.drain(3, drop), 3);
    assert_eq!(producer.push_batch(&mut items), 3);
    assert_eq!(consumer.len(), 4);
}

#[test]
fn pushes_to_a_closed_link_are_discarded_once_it_is_full() {
    let (mut producer, consumer) = link("test", 1);
    drop(consumer);
    assert!(producer.is_closed());
    for item in 0..3 {
        assert_eq!(producer.try_push(item), Ok(()));
    }
    assert_eq!(producer.stats().discarded(), 2);
}

#[test]
fn the_consumer_sees_the_end_after_the_last_item() {
    let (mut producer, mut consumer) = link("test", 4);
    producer.try_push(1).unwrap();
    drop(producer);
    assert!(!consumer.is_finished());
    assert_eq!(consumer.pop(), Some(1));
    assert!(consumer.is_finished());
}

#[test]
fn dropping_the_consumer_wakes_a_producer_that_waits_for_room() {
    let (mut producer, consumer) = link("test", 1);
    let mut parker = Parker::new().unwrap();
    producer.bind(&parker.waker());
    producer.try_push(0).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            parker.wait_until(None, || producer.try_push(1).is_ok()).unwrap();
            producer.stats().discarded()
        });
        drop(consumer);
        assert_eq!(waiter.join().unwrap(), 1);
    });
}

/// Both threads park whenever they cannot go on. With a ring of a few items each push and each pop
/// is at the edge between parked and awake; a lost wake-up in either direction hangs the test.
fn stress(depth: usize, count: u64, batch: usize) {
    let (mut producer, mut consumer) = link("stress", depth);
    let mut parkers = [Parker::new().unwrap(), Parker::new().unwrap()];
    producer.bind(&parkers[0].waker());
    consumer.bind(&parkers[1].waker());
    let stats = producer.stats();
    let [sender, receiver] = &mut parkers;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut items = (0..count).peekable();
            while items.peek().is_some() {
                let push = || {
                    if batch == 1 {
                        let Some(item) = items.peek().copied() else { return true };
                        let is_in = producer.try_push(item).is_ok();
                        if is_in {
                            items.next();
                        }
                        is_in
                    } else {
                        producer.push_batch(&mut items) > 0
                    }
                };
                sender.wait_until(None, push).unwrap();
            }
        });
        scope.spawn(move || {
            let mut expected = 0;
            while expected < count {
                let take = || {
                    let before = expected;
                    if batch == 1 {
                        if let Some(item) = consumer.pop() {
                            assert_eq!(item, expected);
                            expected += 1;
                        }
                    } else {
                        consumer.drain(batch, |item| {
                            assert_eq!(item, expected);
                            expected += 1;
                        });
                    }
                    expected > before
                };
                receiver.wait_until(None, take).unwrap();
            }
            assert_eq!(consumer.pop(), None);
        });
    });
    assert_eq!((stats.pushed(), stats.popped()), (count, count));
}

#[test]
fn no_wake_up_is_lost_with_one_place() {
    stress(1, 100_000, 1);
}

#[test]
fn no_wake_up_is_lost_with_few_places() {
    for depth in [2, 3, 5] {
        stress(depth, 200_000, 1);
    }
}

#[test]
fn no_wake_up_is_lost_with_batches() {
    for (depth, batch) in [(1, 4), (3, 2), (7, 7), (64, 32)] {
        stress(depth, 300_000, batch);
    }
}

/// Requests and answers over two links of one place each: each side waits for room and for items at
/// the same time.
#[test]
fn no_wake_up_is_lost_in_a_circle() {
    const COUNT: u64 = 100_000;
    let (mut ask, mut asked) = link::<u64>("ask", 1);
    let (mut answer, mut answered) = link::<u64>("answer", 1);
    let mut parkers = [Parker::new().unwrap(), Parker::new().unwrap()];
    ask.bind(&parkers[0].waker());
    answered.bind(&parkers[0].waker());
    asked.bind(&parkers[1].waker());
    answer.bind(&parkers[1].waker());
    let [client, server] = &mut parkers;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut sent, mut seen) = (0, 0);
            while seen < COUNT {
                let step = || {
                    let before = (sent, seen);
                    if sent < COUNT && ask.try_push(sent).is_ok() {
                        sent += 1;
                    }
                    if let Some(item) = answered.pop() {
                        assert_eq!(item, seen * 2);
                        seen += 1;
                    }
                    before != (sent, seen)
                };
                client.wait_until(None, step).unwrap();
            }
        });
        scope.spawn(move || {
            let mut held = None;
            let mut served = 0;
            while served < COUNT {
                let step = || {
                    let Some(item) = held.take().or_else(|| asked.pop()) else { return false };
                    match answer.try_push(item * 2) {
                        Ok(()) => {
                            served += 1;
                            true
                        }
                        Err(_) => {
                            held = Some(item);
                            false
                        }
                    }
                };
                server.wait_until(None, step).unwrap();
            }
        });
    });
}

#[test]
fn a_pop_from_a_ring_that_nobody_waits_for_wakes_nobody() {
    let (mut producer, mut consumer) = link("test", 4);
    let mut parker = Parker::new().unwrap();
    producer.bind(&parker.waker());
    producer.try_push(1).unwrap();
    parker.announce();
    assert_eq!(consumer.pop(), Some(1));
    let deadline = crate::clock::monotonic().after(Duration::from_millis(20));
    parker.park(Some(deadline), |_| ()).unwrap();
    assert!(crate::clock::monotonic() >= deadline, "the producer was woken for nothing");
}
