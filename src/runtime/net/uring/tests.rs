//! Held buffers: too rare in a test with a real peer, so the kernel's part is played by hand.

use std::net::{Ipv4Addr, TcpListener};

use super::*;

/// A driver and a table with one open connection whose receive buffer is full.
struct Full {
    driver: Driver,
    table: Table,
    conn: ConnToken,
    next: u16,
    _peer: TcpStream,
}

/// `None` where io_uring is forbidden.
fn full() -> Option<Full> {
    let config = Config {
        connections_max: 2,
        receive_bytes: 4 << 10,
        send_bytes: 4 << 10,
        pool_buffers: 64,
        pool_buffer_bytes: 512,
        ..Config::default()
    };
    let driver = match Driver::new(&config) {
        Ok(driver) => driver,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let mut table = Table::new(config).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let conn = table.add_connection(listener.accept().unwrap().0, Phase::Open).unwrap();
    let mut full = Full { driver, table, conn, next: 0, _peer: peer };
    while full.table.at(conn.slot).receive.room() >= 512 {
        full.arrive();
    }
    assert!(full.table.at(conn.slot).held.is_empty());
    Some(full)
}

impl Full {
    /// A provided buffer comes back full from the kernel.
    fn arrive(&mut self) {
        self.driver.pool.taken(self.next, 512);
        self.driver.take_in(&mut self.table, self.conn.slot, self.next, 512);
        self.next += 1;
    }

    fn consume_all(&mut self) {
        let count = self.table.at(self.conn.slot).receive.len();
        self.table.consume(self.conn, count);
        self.driver.refill(&mut self.table, self.conn);
    }

    /// The receive ends with an error.
    fn fail(&mut self, errno: i32) {
        let completion = Completion::for_test(Op::Receive, self.conn.slot, -errno);
        self.driver.on_receive(&mut self.table, &completion);
    }

    fn settle(&mut self) {
        let settled = self.driver.settle_connection(&mut self.table, self.conn.slot).unwrap();
        assert!(settled);
    }
}

#[test]
fn a_closing_connection_is_given_no_held_bytes() {
    let Some(mut full) = full() else { return };
    let (slot, before) = (full.conn.slot, full.driver.pool.available());
    full.arrive();
    full.arrive();
    full.table.close(Nanos::ZERO, full.conn);
    full.table.consume(full.conn, 0);
    full.driver.refill(&mut full.table, full.conn);
    assert_eq!(full.table.at(slot).receive.len(), 0, "close drops what was unread");
    full.settle();
    assert!(full.table.at(slot).held.is_empty());
    assert_eq!(full.driver.pool.available(), before, "both buffers are back");
    let mut events = Vec::new();
    full.table.notify(&mut events);
    let received = events.iter().any(|event| matches!(event, Event::Received { .. }));
    assert!(!received, "input of a closing connection: {events:?}");
}

#[test]
fn a_token_of_an_earlier_connection_moves_nothing() {
    let Some(mut full) = full() else { return };
    full.arrive();
    let stale = ConnToken { generation: full.conn.generation + 1, ..full.conn };
    full.table.at(full.conn.slot).receive.clear();
    full.driver.refill(&mut full.table, stale);
    assert_eq!(full.table.at(full.conn.slot).receive.len(), 0);
    full.driver.refill(&mut full.table, full.conn);
    assert_eq!(full.table.at(full.conn.slot).receive.len(), 512);
}

#[test]
fn bytes_that_came_before_a_failure_are_readable_before_it_is_reported() {
    let Some(mut full) = full() else { return };
    let slot = full.conn.slot;
    full.arrive();
    full.fail(libc::ECONNRESET);
    assert!(full.table.at(slot).phase == Phase::Open, "512 bytes are still to be read");
    full.consume_all();
    assert_eq!(full.table.at(slot).receive.len(), 512);
    assert!(full.table.at(slot).phase == Phase::Ending, "then the failure ends it");
    full.settle();
    assert!(full.table.at(slot).held.is_empty());
    // Without held bytes a failure ends it at once.
    let Some(mut full) = self::full() else { return };
    full.fail(libc::ECONNRESET);
    assert!(full.table.at(slot).phase == Phase::Ending);
}
