use std::net::TcpListener;

use super::*;

const BEFORE: &str = "\
# TYPE hufu_tile_busy_nanoseconds counter
hufu_tile_busy_nanoseconds_total{tile=\"verify-0\",thread=\"verify-0\"} 100
hufu_tile_busy_nanoseconds_total{tile=\"mempool\",thread=\"rules-and-consensus\"} 10
hufu_tile_busy_nanoseconds_total{tile=\"execute\",thread=\"rules-and-consensus\"} 20
hufu_process_cpu_nanoseconds_total 1000
hufu_log_bytes_written_total 4096
hufu_transactions_refused_total{reason=\"expired\"} 1
# EOF
";

const AFTER: &str = "\
hufu_tile_busy_nanoseconds_total{tile=\"verify-0\",thread=\"verify-0\"} 600
hufu_tile_busy_nanoseconds_total{tile=\"verify-1\",thread=\"verify-1\"} 300
hufu_tile_busy_nanoseconds_total{tile=\"mempool\",thread=\"rules-and-consensus\"} 40
hufu_tile_busy_nanoseconds_total{tile=\"execute\",thread=\"rules-and-consensus\"} 110
hufu_process_cpu_nanoseconds_total 5000
hufu_process_resident_bytes 777
hufu_log_bytes_written_total 12288
";

fn stage(usage: &Usage, name: &str) -> u64 {
    usage.stages.iter().find(|stage| stage.stage == name).unwrap().cpu_nanos
}

#[test]
fn busy_times_stand_in_where_the_kernel_says_nothing() {
    let usage = Usage::between(&Sample::parse(BEFORE), &Sample::parse(AFTER));
    assert_eq!((usage.cpu_nanos, usage.log_bytes, usage.resident_bytes), (4_000, 8_192, 777));
    assert_eq!((usage.verify_nanos(), stage(&usage, "mempool")), (800, 30));
    assert_eq!(stage(&usage, "execute"), 90);
    assert_eq!(usage.disk_bytes, None);
    assert_eq!(usage.stages[0].stage, "verify", "the dearest stage comes first");
}

#[test]
fn a_threads_cpu_is_divided_among_its_tiles() {
    let (mut before, mut after) = (Sample::parse(BEFORE), Sample::parse(AFTER));
    before.threads.insert("verify-0".to_owned(), 50);
    after.threads.insert("verify-0".to_owned(), 450);
    after.threads.insert("verify-1".to_owned(), 200);
    after.threads.insert("rules-and-conse".to_owned(), 240);
    after.threads.insert("admin".to_owned(), 7);
    let usage = Usage::between(&before, &after);
    assert_eq!(usage.verify_nanos(), 600);
    assert_eq!((stage(&usage, "mempool"), stage(&usage, "execute")), (60, 180));
    assert_eq!(stage(&usage, STAGE_OTHER), 7);
}

#[test]
fn a_node_started_again_counts_from_its_start() {
    let usage = Usage::between(&Sample::parse(AFTER), &Sample::parse(BEFORE));
    assert_eq!((usage.cpu_nanos, usage.verify_nanos()), (1_000, 100));
}

#[test]
fn spans_add_up() {
    let span = Usage::between(&Sample::parse(BEFORE), &Sample::parse(AFTER));
    let mut sum = Usage::default();
    sum.add(&span);
    sum.add(&span);
    assert_eq!((sum.cpu_nanos, sum.verify_nanos()), (8_000, 1_600));
    assert_eq!((sum.log_bytes, sum.resident_bytes), (16_384, 777));
}

#[test]
fn this_process_has_threads_and_counters() {
    let mut sample = Sample::default();
    sample.read_process(std::process::id()).unwrap();
    assert!(!sample.threads.is_empty());
    assert!(sample.threads.values().sum::<u64>() > 0);
    assert!(sample.disk_bytes.is_some());
}

#[test]
fn metrics_are_fetched_over_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for answer in ["HTTP/1.0 200 OK\r\n\r\nhufu_x_total 1\n", "HTTP/1.0 503 Busy\r\n\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let size = stream.read(&mut request).unwrap();
                assert!(request[..size].starts_with(b"GET /metrics HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert_eq!(fetch(address, "/metrics").unwrap(), "hufu_x_total 1\n");
        let refused = fetch(address, "/metrics").unwrap_err().to_string();
        assert!(refused.ends_with("answered \"HTTP/1.0 503 Busy\""), "{refused}");
    });
    drop(listener);
    assert!(matches!(fetch(address, "/metrics"), Err(UsageError::Fetch { .. })));
}

#[test]
fn tiles_of_one_kind_are_one_stage() {
    for (tile, expected) in
        [("verify-12", "verify"), ("ingress[0]", "ingress"), ("persist_log", "persist_log")]
    {
        assert_eq!(stage_of(tile), expected);
    }
}
