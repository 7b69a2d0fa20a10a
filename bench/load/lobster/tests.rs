use std::io::{Cursor, Write as _};

use super::*;

const REAL_FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/aapl_2012-06-21_message_50.csv.gz");

fn events(text: &str) -> Result<Vec<Event>, LobsterError> {
    LobsterReader::new(Cursor::new(text.to_owned().into_bytes()))?.collect()
}

fn fault(text: &str) -> String {
    events(text).unwrap_err().to_string()
}

#[test]
fn the_real_hour_is_read_whole_and_every_line_is_canonical() {
    let path = Path::new(REAL_FILE);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return;
    }
    let mut counts = [0_u32; 8];
    let mut text = String::new();
    for event in LobsterReader::open(path).unwrap() {
        let event = event.unwrap();
        counts[usize::from(event.kind.number())] += 1;
        text.push_str(&event.to_string());
        text.push('\n');
    }
    assert_eq!(counts, [0, 44_256, 469, 41_004, 4_067, 2_201, 0, 0]);
    let mut raw = String::new();
    MultiGzDecoder::new(BufReader::new(File::open(path).unwrap()))
        .read_to_string(&mut raw)
        .unwrap();
    assert!(text == raw, "the canonical lines are the lines of the file");
}

#[test]
fn plain_and_gzip_read_the_same() {
    let text = "34200.5,1,7,10,5853300,1\n34200.5,4,7,10,5853300,1";
    let plain = events(text).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let unpacked: Result<Vec<_>, _> =
        LobsterReader::new(Cursor::new(packed.clone())).unwrap().collect();
    assert_eq!(unpacked.unwrap(), plain);
    assert_eq!(plain.len(), 2);
    assert!(plain[1].kind.is_execution());

    let cut = packed[..packed.len() - 6].to_vec();
    let cut: Result<Vec<_>, _> = LobsterReader::new(Cursor::new(cut)).unwrap().collect();
    assert!(matches!(cut, Err(LobsterError::Read { .. })), "a damaged archive is an error");
}

#[test]
fn halts_and_cross_trades_are_typed() {
    let read = events("1,7,0,0,-1,-1\n2,7,-1,0,0,-1\n3,7,0,0,1,-1\n4,6,-1,500,100,1").unwrap();
    let halts: Vec<_> = read.iter().map(|event| event.halt).collect();
    let expected =
        [Some(HaltState::Halted), Some(HaltState::Quoting), Some(HaltState::Trading), None];
    assert_eq!(halts, expected);
    assert_eq!(read[3].kind, EventKind::CrossTrade);
    assert_eq!(read[0].to_string(), "1,7,0,0,-1,-1");
    assert_eq!(
        fault("1,7,0,0,2,-1"),
        "line 1, column 5 (price): \"2\" is not -1, 0 or 1, as in a halt"
    );
    assert_eq!(
        fault("1,7,0,5,1,-1"),
        "line 1, column 4 (size): \"5\" is not 0, as a halt has no size"
    );
}

#[test]
fn bad_lines_name_line_and_column() {
    let good = "34200.004241176,1,16113575,18,5853300,1\n";
    for (bad, expected) in [
        ("34200.1,1,2,3,4", "line 2: 5 columns, expected 6"),
        ("34200.1,1,2,3,4,1,", "line 2: 7 columns, expected 6"),
        ("", "line 2: 1 columns, expected 6"),
        ("x,1,2,3,4,1", "line 2, column 1 (time): \"x\" is not seconds of a day, 0..=86400"),
        ("-1,1,2,3,4,1", "line 2, column 1 (time): \"-1\" is not seconds of a day, 0..=86400"),
        (
            "34201.,1,2,3,4,1",
            "line 2, column 1 (time): \"34201.\" is not seconds of a day, 0..=86400",
        ),
        (
            "86401,1,2,3,4,1",
            "line 2, column 1 (time): \"86401\" is not seconds of a day, 0..=86400",
        ),
        (
            "34201.1234567890123,1,2,3,4,1",
            "line 2, column 1 (time): \"34201.1234567890123\" is not seconds of a day, 0..=86400",
        ),
        ("34201,8,2,3,4,1", "line 2, column 2 (event type): \"8\" is not an event type, 1..=7"),
        ("34201,01,2,3,4,1", "line 2, column 2 (event type): \"01\" is not an event type, 1..=7"),
        ("34201,1,-2,3,4,1", "line 2, column 3 (order id): \"-2\" is not an order id"),
        ("34201,1,-1,3,4,1", "line 2, column 3 (order id): \"-1\" is not an order id"),
        (
            "34201,1,18446744073709551616,3,4,1",
            "line 2, column 3 (order id): \"18446744073709551616\" is not an order id",
        ),
        (
            "34201,1,2,0,4,1",
            "line 2, column 4 (size): \"0\" is not a number of shares, 1..=1000000000",
        ),
        (
            "34201,1,2,3,4.5,1",
            "line 2, column 5 (price): \"4.5\" is not a price x 10000, 1..=1000000000000",
        ),
        ("34201,1,2,3,4,0", "line 2, column 6 (direction): \"0\" is not 1 or -1"),
        ("34201,1,2,3,4,1\r", "line 2, column 6 (direction): \"1\r\" is not 1 or -1"),
        ("34200,1,2,3,4,1", "line 2, column 1 (time): earlier than the line before"),
    ] {
        assert_eq!(fault(&format!("{good}{bad}\n")), expected, "{bad:?}");
    }
    assert_eq!(fault(&"1".repeat(LINE_SIZE_MAX + 1)), "line 1: longer than 200 bytes");
    assert_eq!(fault(&format!("{}\n", "1".repeat(LINE_SIZE_MAX))), "line 1: 1 columns, expected 6");
}

#[test]
fn an_error_ends_the_iteration() {
    let mut reader = LobsterReader::new(Cursor::new(b"x\n34200,1,2,3,4,1\n".to_vec())).unwrap();
    assert!(reader.next().unwrap().is_err());
    assert!(reader.next().is_none());
}

#[test]
fn a_file_without_events_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.csv");
    assert!(matches!(read_all(&path), Err(LobsterError::Open { .. })));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(read_all(&path), Err(LobsterError::Empty)));
}
