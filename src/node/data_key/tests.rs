use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hufu_crypto::{Digest, PublicKey, Signature, Sm3, software_provider};
use hufu_hsm::{CardIdentity, Error, KeyHandle, KeyReference, Keystore, Usage};
use hufu_runtime::clock::Nanos;

use super::replace::Keeping;
use super::stored::CHECK_BYTES;
use super::*;

/// A card that wraps by adding a byte everywhere, with a check in front: enough to tell who wrapped
/// what. The real wrapping is the card layer's and is tested there and with whole nodes.
struct Fake {
    pad: u8,
    /// Unwraps everything, to zeroes.
    is_lying: bool,
}

impl Keystore for Fake {
    fn identity(&self, _: Nanos) -> Result<CardIdentity, Error> {
        unreachable!("nobody asks for it")
    }

    fn open_key(&self, key: &KeyReference, usage: Usage, _: Nanos) -> Result<KeyHandle, Error> {
        assert_eq!(usage, Usage::Wrap);
        match key {
            KeyReference::Label(label) if label == "data" => Ok(KeyHandle(7)),
            key => Err(Error::KeyMissing { key: key.clone() }),
        }
    }

    fn public_key(&self, _: KeyHandle) -> Result<PublicKey, Error> {
        unreachable!("nobody asks for it")
    }

    fn sign_sm2(
        &self,
        _: KeyHandle,
        _: &[Digest],
        _: &mut [Signature],
        _: Nanos,
    ) -> Result<(), Error> {
        unreachable!("nobody signs")
    }

    fn sm2_decrypt(&self, _: KeyHandle, _: &[u8], _: &mut [u8], _: Nanos) -> Result<usize, Error> {
        unreachable!("nobody decrypts")
    }

    fn wrap(
        &self,
        key: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        _: Nanos,
    ) -> Result<usize, Error> {
        assert_eq!(key, KeyHandle(7));
        wrapped[0] = self.pad;
        for (to, from) in wrapped[1..].iter_mut().zip(secret) {
            *to = from.wrapping_add(self.pad);
        }
        Ok(33)
    }

    fn unwrap(
        &self,
        _: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        _: Nanos,
    ) -> Result<(), Error> {
        if self.is_lying {
            return Ok(());
        }
        if wrapped[0] != self.pad {
            let reason = "another key".to_owned();
            return Err(Error::Refused { what: "wrapped secret", reason });
        }
        for (to, from) in secret.iter_mut().zip(&wrapped[1..]) {
            *to = from.wrapping_sub(self.pad);
        }
        Ok(())
    }

    fn random(&self, _: &mut [u8], _: Nanos) -> Result<(), Error> {
        unreachable!("nobody asks for it")
    }
}

/// Cards by the names of their files; what was opened is kept.
struct Drawer {
    opened: Mutex<Vec<PathBuf>>,
}

impl Drawer {
    const fn new() -> Self {
        Self { opened: Mutex::new(Vec::new()) }
    }

    fn open(&self, place: &CardPlace) -> Result<OpenedKey, CardError> {
        self.opened.lock().unwrap().push(place.card.clone());
        let fake = match place.card.file_name().unwrap().to_str().unwrap() {
            "one.toml" => Fake { pad: 1, is_lying: false },
            "two.toml" => Fake { pad: 2, is_lying: false },
            "lying.toml" => Fake { pad: 1, is_lying: true },
            _ => {
                let reason = "it is away".to_owned();
                return Err(Error::Agent { reason }.into());
            }
        };
        let handle = fake.open_key(&place.key.key, Usage::Wrap, OpenedKey::deadline())?;
        Ok(OpenedKey::on(Arc::new(fake), handle))
    }
}

fn place(card: &str, key: &str) -> CardPlace {
    CardPlace { card: PathBuf::from(card), key: key.parse().unwrap() }
}

fn one() -> CardPlace {
    place("one.toml", "pkcs11:object=data")
}

fn secrets_of(numbers: &[u8]) -> Vec<Secret> {
    let secret = |number: &u8| {
        Secret::filled(|bytes| {
            bytes.fill(*number);
            Ok::<(), Error>(())
        })
        .unwrap()
    };
    numbers.iter().map(secret).collect()
}

fn refusal(content: &[u8]) -> &'static str {
    stored::decode(content).err().unwrap()
}

#[test]
fn a_new_data_key_is_private_reads_back_and_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("data.key"), folder.path().join("other.key"));
    let id = create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(load(&path, &software_provider()).unwrap().current(), id);
    assert!(matches!(create(&path), Err(KeyFileError::Exists { .. })));
    assert_eq!(load(&path, &software_provider()).unwrap().current(), id);
    assert_eq!(describe(&path).unwrap(), Description { ids: vec![id], wrapped_by: None });
    assert_ne!(create(&other).unwrap(), id);
    for mode in [0o640, 0o604, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let refused = load(&path, &software_provider()).unwrap_err();
        let is_exposed = matches!(refused, DataKeyError::File(KeyFileError::Exposed { .. }));
        assert!(is_exposed && refused.is_permanent(), "{refused}");
    }
    let missing = load(&folder.path().join("gone"), &software_provider()).unwrap_err();
    assert!(matches!(missing, DataKeyError::File(KeyFileError::Read(_))), "{missing}");
}

#[test]
fn a_file_may_hold_older_keys_behind_the_current_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.key");
    write_new(&path, &stored::encode_clear(&secrets_of(&[1, 2]))).unwrap();
    let ring = load(&path, &software_provider()).unwrap();
    assert_eq!(ring.current(), DataKey::id_of(&[1; 32]));
    assert!(ring.has(DataKey::id_of(&[2; 32])));
    assert!(!refusal(&stored::encode_clear(&secrets_of(&[1, 1]))).is_empty());
    assert!(!refusal(&stored::encode_clear(&[])).is_empty());
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused_and_nothing_is_shown() {
    let clear = stored::encode_clear(&secrets_of(&[0x5a]));
    let keys = vec![WrappedKey { id: 5, wrapped: vec![6; 40] }];
    let wrapped = stored::encode_wrapped(&Wrapped { by: one(), keys }).unwrap();
    for good in [&clear[..], &wrapped] {
        for bit in 0..good.len() * 8 {
            let mut flipped = good.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(stored::decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(stored::decode(&good[..length]).is_err(), "cut at {length}");
        }
    }
    // A check that fits does not make a file of another meaning.
    let places = [(8, 2), (8, 3), (12, 0), (12, 2), (24, 1), (28, 1), (33, 1), (100, 1)];
    let clear = places.map(|place| (&clear[..], place));
    // Kind, sizes of a key, of the path, of the URI, path no UTF-8, another URI for the same key.
    let places = [(8, 1), (12, 2), (16, 2), (20, 41), (24, 9), (28, 1), (33, 0xff), (33, 0)];
    let wrapped = places.map(|place| (&wrapped[..], place));
    for (good, (place, value)) in clear.into_iter().chain(wrapped) {
        let mut changed = good[..good.len() - CHECK_BYTES].to_vec();
        changed[place] = value;
        let check = Sm3::of(&[&changed]);
        changed.extend_from_slice(&check.0);
        let reason = refusal(&changed);
        assert!(!reason.contains("check"), "byte {place}: {reason}");
    }
}

/// The bytes of both versions: a file that was made once must be read for ever.
#[test]
fn the_bytes_of_a_file_are_these() {
    let clear = stored::encode_clear(&secrets_of(&[1]));
    let keys = vec![
        WrappedKey { id: 0x0102_0304_0506_0708, wrapped: vec![0xaa; 3] },
        WrappedKey { id: 9, wrapped: vec![0xbb; 3] },
    ];
    let wrapped = stored::encode_wrapped(&Wrapped { by: one(), keys }).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let zeroes = |count: usize| "00".repeat(count);
    let key = DataKey::id_of(&[1; 32]).to_le_bytes();
    let expected = format!(
        "48554655444b45590100000001000000{}{}{}{}",
        hex(&key),
        zeroes(40),
        "01".repeat(32),
        zeroes(32)
    );
    assert_eq!(hex(&clear[..clear.len() - CHECK_BYTES]), expected);
    // "one.toml", "pkcs11:object=data".
    let expected = "48554655444b45590200000002000000\
                    01000000030000000800000012000000\
                    6f6e652e746f6d6c706b637331313a6f626a6563743d64617461\
                    0807060504030201aaaaaa0900000000000000bbbbbb";
    assert_eq!(hex(&wrapped[..wrapped.len() - CHECK_BYTES]), expected);
    let digests = [&clear[..], &wrapped].map(|file| Sm3::of(&[file]).to_string());
    assert_eq!(digests, GOLDEN);
}

/// SM3 of both files of the test above.
const GOLDEN: [&str; 2] = [
    "ac16b2508d5b2aa5f9cea988bc8bdf2ac16d5c192b4c0788b015e04de2be5b83",
    "6f42bac3e5258a06ea0fd28c337dfedde7cbea673417c38f3e1618a662374ef0",
];

#[test]
fn a_card_opens_what_it_wrapped_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let (path, drawer) = (folder.path().join("data.key"), Drawer::new());
    let open = |place: &CardPlace| drawer.open(place);
    let provider = software_provider();
    let id = create_wrapped(&path, &one(), &open).unwrap();
    assert_eq!(load_by(&path, &provider, &open).unwrap().current(), id);
    let described = describe(&path).unwrap();
    assert_eq!(described, Description { ids: vec![id], wrapped_by: Some(one()) });
    let beside = folder.path().join("one.toml");
    assert_eq!(*drawer.opened.lock().unwrap(), [beside.clone(), beside], "beside the file");

    let content = fs::read(&path).unwrap();
    let card = |name: &str| {
        let named = |place: &CardPlace| {
            drawer.open(&CardPlace { card: place.card.with_file_name(name), ..place.clone() })
        };
        load_by(&path, &provider, &named).unwrap_err()
    };
    let refused = card("two.toml");
    assert!(matches!(refused, DataKeyError::NotWrapped { .. }), "{refused}");
    assert!(refused.is_permanent() && refused.to_string().contains(&show_id(id)), "{refused}");
    let refused = card("lying.toml");
    assert!(matches!(refused, DataKeyError::OtherKey { .. }) && refused.is_permanent());
    let refused = card("gone.toml");
    assert!(matches!(refused, DataKeyError::Card { .. }) && !refused.is_permanent(), "{refused}");

    // What is flipped and checked anew is found by the card or by the id.
    for byte in [content.len() - CHECK_BYTES - 33, content.len() - CHECK_BYTES - 1] {
        let mut changed = content[..content.len() - CHECK_BYTES].to_vec();
        changed[byte] ^= 0x40;
        let check = Sm3::of(&[&changed]);
        changed.extend_from_slice(&check.0);
        fs::write(&path, &changed).unwrap();
        let refused = load_by(&path, &provider, &open).unwrap_err();
        let is_known =
            matches!(refused, DataKeyError::NotWrapped { .. } | DataKeyError::OtherKey { .. });
        assert!(is_known, "{refused}");
    }
}

#[test]
fn what_a_card_does_not_wrap_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let (path, drawer) = (folder.path().join("data.key"), Drawer::new());
    let open = |place: &CardPlace| drawer.open(place);
    let cases = [
        (place("gone.toml", "pkcs11:object=data"), "it is away"),
        (place("one.toml", "pkcs11:object=other"), "no key with label"),
        (place("lying.toml", "pkcs11:object=data"), "makes another key of it"),
    ];
    for (by, reason) in cases {
        let refused = create_wrapped(&path, &by, &open).unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{reason}");
    }
}

#[test]
fn the_keys_stay_the_same_however_they_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (path, drawer) = (folder.path().join("data.key"), Drawer::new());
    let open = |place: &CardPlace| drawer.open(place);
    let provider = software_provider();
    let first = create(&path).unwrap();
    let old = fs::File::open(&path).unwrap();
    replace::rewrap(&path, &Keeping::Wrapped(one()), None, &open).unwrap();
    assert_eq!(describe(&path).unwrap().wrapped_by, Some(one()));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let left = std::io::read_to_string(old).unwrap();
    assert!(left.bytes().all(|byte| byte == 0), "the keys in clear are overwritten");

    let second = replace::rotate(&path, &open).unwrap();
    assert_eq!(describe(&path).unwrap().ids, [second, first]);
    let two = place("two.toml", "pkcs11:object=data");
    replace::rewrap(&path, &Keeping::Wrapped(two.clone()), None, &open).unwrap();
    assert_eq!(describe(&path).unwrap().wrapped_by, Some(two));
    let ring = load_by(&path, &provider, &open).unwrap();
    assert!(ring.current() == second && ring.has(first));

    // The card's file went elsewhere.
    let wrong = place("gone.toml", "pkcs11:object=data");
    let refused = replace::rewrap(&path, &Keeping::Wrapped(wrong), None, &open).unwrap_err();
    assert!(refused.to_string().contains("it is away"), "{refused}");
    let moved = folder.path().join("elsewhere/two.toml");
    replace::rewrap(&path, &Keeping::Clear, Some(&moved), &open).unwrap();
    assert!(drawer.opened.lock().unwrap().contains(&moved));
    assert_eq!(load(&path, &provider).unwrap().current(), second);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_failing_card_leaves_the_old_file_and_the_last_place_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, drawer) = (folder.path().join("data.key"), Drawer::new());
    let open = |place: &CardPlace| drawer.open(place);
    create(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let lying = Keeping::Wrapped(place("lying.toml", "pkcs11:object=data"));
    let refused = replace::rewrap(&path, &lying, None, &open).unwrap_err();
    assert!(matches!(refused, DataKeyError::OtherKey { .. }), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::write(folder.path().join("data.key.new"), "somebody is at it").unwrap();
    let refused = replace::rotate(&path, &open).unwrap_err();
    assert!(matches!(refused, DataKeyError::File(KeyFileError::Exists { .. })), "{refused}");
    fs::remove_file(folder.path().join("data.key.new")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);

    // A hard link is somebody's copy: it stays.
    fs::hard_link(&path, folder.path().join("copy")).unwrap();
    replace::rewrap(&path, &Keeping::Wrapped(one()), None, &open).unwrap();
    assert_eq!(fs::read(folder.path().join("copy")).unwrap(), before);
    for count in 2..=KEYS_COUNT_MAX {
        replace::rotate(&path, &open).unwrap();
        assert_eq!(describe(&path).unwrap().ids.len(), usize::try_from(count).unwrap());
    }
    let refused = replace::rotate(&path, &open).unwrap_err();
    assert!(matches!(refused, DataKeyError::Full), "{refused}");
}
