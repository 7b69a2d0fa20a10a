//! What lies in the memory of a node that runs: of its keys what it needs, once, and no key file.

use std::os::unix::fs::FileExt;

use super::*;

/// Bytes of memory read at once.
const PIECE: usize = 1 << 24;

/// The bytes of the digits of a PEM text.
fn from_pem(text: &str) -> Vec<u8> {
    let digits: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let value = |digit: u8| match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => u8::MAX,
    };
    let mut bytes = Vec::new();
    for four in digits.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(value(*digit)));
        let bits = bits << (6 * (4 - four.len()) + 8);
        bytes.extend(&bits.to_be_bytes()[..four.len() * 6 / 8]);
    }
    bytes
}

/// Where the wanted bytes begin in the memory of a process; `None` to who may not look.
pub(crate) fn find(process: u32, wanted: &[[u8; 32]]) -> Option<Vec<Vec<u64>>> {
    let memory = fs::File::open(format!("/proc/{process}/mem")).ok()?;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    let mut found = vec![Vec::new(); wanted.len()];
    let mut piece = vec![0; PIECE];
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [mut at, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        // What may be written to; the program itself holds no key.
        while rest.starts_with("rw") && at < end {
            let size = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let Ok(()) = memory.read_exact_at(&mut piece[..size], at) else { break };
            for (wanted, found) in wanted.iter().zip(&mut found) {
                let places = piece[..size].windows(32).enumerate();
                let places = places.filter(|(_, bytes)| bytes[0] == wanted[0] && bytes == wanted);
                found.extend(places.map(|(place, _)| at + place as u64));
            }
            at += size as u64;
        }
    }
    Some(found)
}

/// The private key of a file in clear.
pub(crate) fn private_bytes(path: &Path) -> [u8; 32] {
    let file = from_pem(&fs::read_to_string(path).unwrap());
    // INTEGER 1, OCTET STRING of 32 bytes.
    let place = file.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]).unwrap() + 5;
    file[place..place + 32].try_into().unwrap()
}

/// The vote key lies in the one place it signs from; of the data key only what was derived from it
/// is there.
#[test]
fn a_node_keeps_no_copy_of_its_keys() {
    let node = Node::start();
    let private = private_bytes(&node.path().join("vote.pem"));
    let file = fs::read(node.path().join("data.key")).unwrap();
    let data: [u8; 32] = file[64..96].try_into().unwrap();
    let Some(found) = find(node.child.id(), &[private, data]) else {
        // Nobody but root looks into a process that forbids core dumps.
        return;
    };
    assert_eq!(found[0].len(), 1, "the vote key lies at {:x?}", found[0]);
    assert_eq!(found[1].len(), 0, "the data key lies at {:x?}", found[1]);
}
