use super::*;
use crate::numbers::Numbers;

/// The key, and the block, of the examples of GB/T 32907-2016 annex A and of RFC 8998.
const EXAMPLE_KEY: Block = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10";

/// Every back end that this CPU has; says which it lacks.
fn backends() -> Vec<Backend> {
    let all = [
        ("portable", Some(Backend::PORTABLE)),
        ("avx2", Backend::avx2()),
        ("avx512", Backend::avx512()),
    ];
    let mut found = Vec::new();
    for (name, backend) in all {
        match backend {
            Some(backend) => found.push(backend),
            None => eprintln!("skipped: this CPU has no {name}"),
        }
    }
    found
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// GB/T 32907-2016 annex A.1.
#[test]
fn the_first_example_of_the_standard() {
    for backend in backends() {
        let cipher = Key::new(backend, &EXAMPLE_KEY);
        for count in [1, 3, 16, 64, 65] {
            let mut blocks = vec![EXAMPLE_KEY; count];
            cipher.encrypt_blocks(&mut blocks);
            let wanted = b"\x68\x1e\xdf\x34\xd2\x06\x96\x5e\x86\xb3\xe9\x4f\x53\x6e\x42\x46";
            assert_eq!(blocks, vec![*wanted; count], "{}", backend.name());
            cipher.decrypt_blocks(&mut blocks);
            assert_eq!(blocks, vec![EXAMPLE_KEY; count], "{}", backend.name());
        }
    }
}

/// GB/T 32907-2016 annex A.2: the block encrypted 1,000,000 times.
#[test]
fn the_second_example_of_the_standard() {
    for backend in backends() {
        let cipher = Key::new(backend, &EXAMPLE_KEY);
        let mut blocks = [EXAMPLE_KEY];
        for _ in 0..1_000_000 {
            cipher.encrypt_blocks(&mut blocks);
        }
        let wanted = b"\x59\x52\x98\xc7\xc6\xfd\x27\x1f\x04\x02\xf8\x04\xc3\x3d\x3f\x66";
        assert_eq!(blocks, [*wanted], "{}", backend.name());
    }
}

/// The plaintext, nonce and associated data of RFC 8998 appendix A.
fn rfc_8998() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let bytes: [u8; 8] = [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xee, 0xaa];
    let plain = bytes.iter().flat_map(|byte| [*byte; 8]).collect();
    let associated = unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    (plain, unhex("00001234567800000000abcd"), associated)
}

/// RFC 8998 appendix A.1.
#[test]
fn the_gcm_example_of_rfc_8998() {
    let (plain, nonce, associated) = rfc_8998();
    for backend in backends() {
        let key = gcm::Key::new(backend, &EXAMPLE_KEY);
        let mut data = plain.clone();
        let tag = key.seal(&nonce, &associated, &mut data).unwrap();
        let wanted = "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735\
            d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d";
        assert_eq!(data, unhex(wanted), "{}", backend.name());
        assert_eq!(tag[..], unhex("83de3541e4c2b58177e065a9bf7b62ec"), "{}", backend.name());
        key.open(&nonce, &associated, &mut data, &tag).unwrap();
        assert_eq!(data, plain, "{}", backend.name());
    }
}

/// RFC 8998 appendix A.2.
#[test]
fn the_ccm_example_of_rfc_8998() {
    let (plain, nonce, associated) = rfc_8998();
    for backend in backends() {
        let key = Key::new(backend, &EXAMPLE_KEY);
        let mut data = plain.clone();
        let tag = ccm::seal(&key, &nonce, &associated, &mut data, 16).unwrap();
        let wanted = "48af93501fa62adbcd414cce6034d895dda1bf8f132f042098661572e7483094\
            fd12e518ce062c98acee28d95df4416bed31a2f04476c18bb40c84a74b97dc5b";
        assert_eq!(data, unhex(wanted), "{}", backend.name());
        assert_eq!(tag[..], unhex("16842d4fa186f56ab33256971fa110f4"), "{}", backend.name());
        ccm::open(&key, &nonce, &associated, &mut data, &tag).unwrap();
        assert_eq!(data, plain, "{}", backend.name());
    }
}

/// draft-ribose-cfrg-sm4 appendix A.2: two blocks in CBC, four in CTR.
#[test]
fn the_cbc_and_ctr_examples_of_the_internet_draft() {
    for backend in backends() {
        let key = Key::new(backend, &EXAMPLE_KEY);
        let mut blocks = [EXAMPLE_KEY; 2];
        let mut chain = EXAMPLE_KEY;
        key.cbc_encrypt(&mut chain, &mut blocks);
        let wanted = "2677f46b09c122cc975533105bd4a22af6125f7275ce552c3a2bbcf533de8a3b";
        assert_eq!(blocks.as_flattened(), unhex(wanted), "{}", backend.name());
        assert_eq!(chain, blocks[1]);
        key.cbc_decrypt(&mut { EXAMPLE_KEY }, &mut blocks);
        assert_eq!(blocks, [EXAMPLE_KEY; 2], "{}", backend.name());

        let (mut data, ..) = rfc_8998();
        key.ctr(&EXAMPLE_KEY, &mut data);
        let wanted = "c2b4759e78ac3cf43d0852f4e8d5f9fd7256e8a5fcb65a350ee00630912e4449\
            2a0b17e1b85b060d0fba612d8a95831638b361fd5ffacd942f081485a83ca35d";
        assert_eq!(data, unhex(wanted), "{}", backend.name());
    }
}

#[test]
fn streams_side_by_side_are_chained_as_alone() {
    let mut numbers = Numbers(41);
    for backend in backends() {
        let key = Key::new(backend, &EXAMPLE_KEY);
        for count in [0, 1, 2, 15, 63, 64, 65, 150] {
            let plain: Vec<Vec<Block>> = (0..count)
                .map(|_| {
                    let blocks = numbers.below(20);
                    numbers.bytes(16 * blocks).as_chunks::<16>().0.to_vec()
                })
                .collect();
            let vectors: Vec<Block> =
                (0..count).map(|_| numbers.bytes(16).try_into().unwrap()).collect();
            let mut data = plain.clone();
            let mut streams: Vec<CbcStream<'_>> = data
                .iter_mut()
                .zip(&vectors)
                .map(|(blocks, vector)| CbcStream { chain: *vector, blocks })
                .collect();
            key.cbc_encrypt_many(&mut streams);
            let chains: Vec<Block> = streams.iter().map(|stream| stream.chain).collect();
            for (index, plain) in plain.iter().enumerate() {
                let (mut alone, mut chain) = (plain.clone(), vectors[index]);
                key.cbc_encrypt(&mut chain, &mut alone);
                assert_eq!(data[index], alone, "{} stream {index} of {count}", backend.name());
                assert_eq!(chains[index], chain, "{} stream {index} of {count}", backend.name());
                let mut chain = vectors[index];
                key.cbc_decrypt(&mut chain, &mut alone);
                assert_eq!(&alone, plain, "{} stream {index} of {count}", backend.name());
                assert_eq!(chain, chains[index]);
            }
        }
    }
}

fn random_key(numbers: &mut Numbers) -> Block {
    numbers.bytes(16).try_into().unwrap()
}

/// Lengths around every boundary of a block, a vector, a group and a pass, and some at random.
fn lengths(numbers: &mut Numbers) -> Vec<usize> {
    let mut lengths: Vec<usize> = (0..300).collect();
    for boundary in [512, 768, 1_008, 1_024, 1_280, 2_048, 3_072, 4_096, 5_120] {
        lengths.extend(boundary - 17..=boundary + 17);
    }
    lengths.extend((0..60).map(|_| numbers.below(9_000)));
    lengths
}

#[test]
fn every_back_end_equals_portable_block_by_block() {
    let mut numbers = Numbers(42);
    for count in (0..200).chain([255, 256, 257, 500]) {
        let key = random_key(&mut numbers);
        let plain: Vec<Block> = (0..count).map(|_| random_key(&mut numbers)).collect();
        let mut wanted = plain.clone();
        for block in &mut wanted {
            Key::new(Backend::PORTABLE, &key).encrypt_blocks(core::slice::from_mut(block));
        }
        for backend in backends() {
            let cipher = Key::new(backend, &key);
            let mut blocks = plain.clone();
            cipher.encrypt_blocks(&mut blocks);
            assert_eq!(blocks, wanted, "{} of {count}", backend.name());
            cipher.decrypt_blocks(&mut blocks);
            assert_eq!(blocks, plain, "{} of {count}", backend.name());
        }
    }
}

/// CTR out of single blocks, one counter after the other.
fn ctr_by_blocks(key: &Key, counter: u128, data: &mut [u8]) {
    for (place, piece) in data.chunks_mut(BLOCK_SIZE).enumerate() {
        let mut block = [counter.wrapping_add(place as u128).to_be_bytes()];
        key.encrypt_blocks(&mut block);
        xor(piece, &block[0]);
    }
}

#[test]
fn ctr_is_the_encrypted_counters_and_wraps_at_every_word() {
    let mut numbers = Numbers(43);
    for length in lengths(&mut numbers) {
        let key = random_key(&mut numbers);
        let plain = numbers.bytes(length);
        let mut counter = u128::from_be_bytes(random_key(&mut numbers));
        match length % 4 {
            0 => counter |= u128::from(u32::MAX) - 3,
            1 => counter |= u128::MAX - 20,
            2 => counter |= u128::from(u64::MAX) - 64,
            _ => {}
        }
        let mut wanted = plain.clone();
        ctr_by_blocks(&Key::new(Backend::PORTABLE, &key), counter, &mut wanted);
        for backend in backends() {
            let cipher = Key::new(backend, &key);
            let mut data = plain.clone();
            let next = cipher.ctr(&counter.to_be_bytes(), &mut data);
            assert_eq!(data, wanted, "{} {length} {counter:x}", backend.name());
            let blocks = length.div_ceil(BLOCK_SIZE) as u128;
            assert_eq!(u128::from_be_bytes(next), counter.wrapping_add(blocks));
        }
    }
}

/// GCM by the words of SP 800-38D, with a product in the field bit by bit.
fn gcm_by_the_standard(
    key: &Block,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
) -> [u8; BLOCK_SIZE] {
    let key = Key::new(Backend::PORTABLE, key);
    let mut point = [[0; BLOCK_SIZE]];
    key.encrypt_blocks(&mut point);
    let ghash = |parts: &[&[u8]]| {
        let mut sum = 0_u128;
        for block in parts.iter().flat_map(|part| part.chunks(BLOCK_SIZE)) {
            let mut padded = [0; BLOCK_SIZE];
            padded[..block.len()].copy_from_slice(block);
            sum = field_product(sum ^ u128::from_be_bytes(padded), u128::from_be_bytes(point[0]));
        }
        sum.to_be_bytes()
    };
    let sizes = |first: &[u8], second: &[u8]| {
        [first, second].map(|bytes| (8 * bytes.len() as u64).to_be_bytes()).concat()
    };
    let first = if nonce.len() == 12 {
        [nonce, &[0, 0, 0, 1]].concat().try_into().unwrap()
    } else {
        ghash(&[nonce, &sizes(&[], nonce)])
    };
    for (place, piece) in data.chunks_mut(BLOCK_SIZE).enumerate() {
        let mut block = [first];
        let last = u32::from_be_bytes(first[12..].try_into().unwrap());
        let last = last.wrapping_add(u32::try_from(place).unwrap() + 1);
        block[0][12..].copy_from_slice(&last.to_be_bytes());
        key.encrypt_blocks(&mut block);
        xor(piece, &block[0]);
    }
    let mut tag = ghash(&[associated, data, &sizes(associated, data)]);
    let mut block = [first];
    key.encrypt_blocks(&mut block);
    xor(&mut tag, &block[0]);
    tag
}

/// X * Y of SP 800-38D 6.3.
fn field_product(x: u128, y: u128) -> u128 {
    let (mut z, mut v) = (0, y);
    for bit in (0..128).rev() {
        if x >> bit & 1 == 1 {
            z ^= v;
        }
        v = if v & 1 == 1 { v >> 1 ^ (0xe1 << 120) } else { v >> 1 };
    }
    z
}

#[test]
fn gcm_is_that_of_the_standard_at_every_length() {
    let mut numbers = Numbers(44);
    for length in lengths(&mut numbers) {
        let key = random_key(&mut numbers);
        let nonce_size = if length % 3 == 0 { 1 + numbers.below(80) } else { 12 };
        let nonce = numbers.bytes(nonce_size);
        let associated_size = numbers.below(100);
        let associated = numbers.bytes(associated_size);
        let plain = numbers.bytes(length);
        let mut wanted = plain.clone();
        let wanted_tag = gcm_by_the_standard(&key, &nonce, &associated, &mut wanted);
        for backend in backends() {
            let cipher = gcm::Key::new(backend, &key);
            let mut data = plain.clone();
            let tag = cipher.seal(&nonce, &associated, &mut data).unwrap();
            assert_eq!(data, wanted, "{} {length}", backend.name());
            assert_eq!(tag, wanted_tag, "{} {length}", backend.name());
            cipher.open(&nonce, &associated, &mut data, &tag).unwrap();
            assert_eq!(data, plain, "{} {length}", backend.name());
        }
    }
}

/// A hashed nonce can give a counter whose last word wraps inside the data.
#[test]
fn a_gcm_counter_wraps_in_its_last_word_only() {
    let mut numbers = Numbers(45);
    let key = random_key(&mut numbers);
    // One nonce of sixteen bytes for each J0: J0 = (nonce H + lengths) H can be solved for it.
    let mut point = [[0; BLOCK_SIZE]];
    Key::new(Backend::PORTABLE, &key).encrypt_blocks(&mut point);
    let point = u128::from_be_bytes(point[0]);
    // H^-1 = H^(2^128 - 2).
    let mut inverse = 1_u128 << 127;
    let mut square = point;
    for _ in 1..128 {
        square = field_product(square, square);
        inverse = field_product(inverse, square);
    }
    for below in [0_u128, 1, 2, 15, 16, 63, 64, 65, 200] {
        let first = u128::from_be_bytes(random_key(&mut numbers)) | u128::from(u32::MAX);
        let first = first - below;
        let nonce = field_product(field_product(first, inverse) ^ 128, inverse).to_be_bytes();
        for length in [0, 1, 16, 1_000, 1_024, 5_000] {
            let plain = numbers.bytes(length);
            let mut wanted = plain.clone();
            let wanted_tag = gcm_by_the_standard(&key, &nonce, b"", &mut wanted);
            for backend in backends() {
                let cipher = gcm::Key::new(backend, &key);
                let mut data = plain.clone();
                let tag = cipher.seal(&nonce, b"", &mut data).unwrap();
                assert_eq!((tag, &data), (wanted_tag, &wanted), "{} {below}", backend.name());
                cipher.open(&nonce, b"", &mut data, &tag).unwrap();
                assert_eq!(data, plain, "{} {below}", backend.name());
            }
        }
    }
}

#[test]
fn gcm_refuses_whatever_was_changed_and_leaves_zeros() {
    let mut numbers = Numbers(46);
    let key = random_key(&mut numbers);
    let mut other_key = key;
    other_key[5] ^= 1;
    for backend in backends() {
        let cipher = gcm::Key::new(backend, &key);
        let other = gcm::Key::new(backend, &other_key);
        for length in [0, 1, 15, 16, 100, 1_008, 1_024, 2_500] {
            let (nonce, associated) = (numbers.bytes(12), numbers.bytes(20));
            let mut sealed = numbers.bytes(length);
            let tag = cipher.seal(&nonce, &associated, &mut sealed).unwrap();
            let refused = |cipher: &gcm::Key, nonce: &[u8], aad: &[u8], data: &[u8], tag: &[u8]| {
                let mut data = data.to_vec();
                let opened = cipher.open(nonce, aad, &mut data, tag);
                assert_eq!(opened, Err(Error::TagWrong), "{} {length}", backend.name());
                assert!(data.iter().all(|byte| *byte == 0), "{} {length}", backend.name());
            };
            refused(&other, &nonce, &associated, &sealed, &tag);
            for place in 0..length {
                let mut changed = sealed.clone();
                changed[place] ^= 1 << (place % 8);
                refused(&cipher, &nonce, &associated, &changed, &tag);
            }
            for bit in 0..128 {
                let mut changed = tag;
                changed[bit / 8] ^= 1 << (bit % 8);
                refused(&cipher, &nonce, &associated, &sealed, &changed);
            }
            for place in 0..12 {
                let mut changed = nonce.clone();
                changed[place] ^= 0x10;
                refused(&cipher, &changed, &associated, &sealed, &tag);
            }
            for place in 0..20 {
                let mut changed = associated.clone();
                changed[place] ^= 2;
                refused(&cipher, &nonce, &changed, &sealed, &tag);
            }
            refused(&cipher, &nonce, &associated[..19], &sealed, &tag);
            refused(&cipher, &nonce, &[&associated[..], &[0]].concat(), &sealed, &tag);
            refused(&cipher, &nonce, &associated, &[&sealed[..], &[0]].concat(), &tag);
            refused(&cipher, &nonce, &associated, &sealed[length.min(1)..], &[0; 16]);
            if length > 0 {
                refused(&cipher, &nonce, &associated, &sealed[..length - 1], &tag);
                refused(&cipher, &nonce, &associated, &sealed[1..], &tag);
            }
        }
    }
}

#[test]
fn gcm_takes_tags_and_nonces_of_the_allowed_lengths_only() {
    for backend in backends() {
        let cipher = gcm::Key::new(backend, &EXAMPLE_KEY);
        let mut sealed = *b"some bytes to seal";
        assert_eq!(cipher.seal(&[], b"", &mut sealed), Err(Error::NonceLength));
        assert_eq!(&sealed, b"some bytes to seal", "untouched");
        let tag = cipher.seal(&[1; 12], b"", &mut sealed).unwrap();
        for size in 0..=20 {
            let long = [&tag[..], &[0; 4]].concat();
            let mut data = sealed;
            let opened = cipher.open(&[1; 12], b"", &mut data, &long[..size]);
            let right = (12..=16).contains(&size);
            assert_eq!(opened, if right { Ok(()) } else { Err(Error::TagLength) }, "{size}");
            assert_eq!(&data, if right { b"some bytes to seal" } else { &[0; 18] }, "{size}");
        }
        assert_eq!(cipher.open(&[], b"", &mut sealed, &tag), Err(Error::NonceLength));
        assert_eq!(sealed, [0; 18]);
    }
}

/// Each is a pair of sizes that SP 800-38C A.1 allows.
#[test]
fn ccm_goes_round_and_refuses_whatever_was_changed() {
    let mut numbers = Numbers(47);
    for nonce_size in 7..=13 {
        for tag_size in (4..=16).step_by(2) {
            let key = random_key(&mut numbers);
            let nonce = numbers.bytes(nonce_size);
            let (length, associated_size) = (numbers.below(300), numbers.below(60));
            let (plain, associated) = (numbers.bytes(length), numbers.bytes(associated_size));
            let mut wanted = plain.clone();
            let portable = Key::new(Backend::PORTABLE, &key);
            let wanted_tag =
                ccm::seal(&portable, &nonce, &associated, &mut wanted, tag_size).unwrap();
            for backend in backends() {
                let cipher = Key::new(backend, &key);
                let mut data = plain.clone();
                let tag = ccm::seal(&cipher, &nonce, &associated, &mut data, tag_size).unwrap();
                assert_eq!((tag, &data), (wanted_tag, &wanted), "{}", backend.name());
                let (tag, unused) = tag.split_at(tag_size);
                assert!(unused.iter().all(|byte| *byte == 0));
                for place in 0..length + tag_size {
                    let mut changed = [&data[..], tag].concat();
                    changed[place] ^= 1 << (place % 8);
                    let (data, tag) = changed.split_at_mut(length);
                    let opened = ccm::open(&cipher, &nonce, &associated, data, tag);
                    assert_eq!(opened, Err(Error::TagWrong));
                    assert!(data.iter().all(|byte| *byte == 0));
                }
                let mut longer = [&data[..], &[0]].concat();
                let opened = ccm::open(&cipher, &nonce, &associated, &mut longer, tag);
                assert_eq!(opened, Err(Error::TagWrong));
                ccm::open(&cipher, &nonce, &associated, &mut data, tag).unwrap();
                assert_eq!(data, plain, "{}", backend.name());
            }
        }
    }
}

#[test]
fn ccm_takes_the_allowed_lengths_only() {
    let key = Key::new(Backend::PORTABLE, &EXAMPLE_KEY);
    let mut data = vec![7; 65_536];
    for size in [0, 6, 14, 16] {
        assert_eq!(ccm::seal(&key, &vec![1; size], b"", &mut data, 16), Err(Error::NonceLength));
    }
    for size in [0, 2, 3, 5, 15, 17, 18] {
        assert_eq!(ccm::seal(&key, &[1; 12], b"", &mut data, size), Err(Error::TagLength));
        let mut opened = [7; 5];
        assert_eq!(
            ccm::open(&key, &[1; 12], b"", &mut opened, &vec![0; size]),
            Err(Error::TagLength)
        );
        assert_eq!(opened, [0; 5]);
    }
    // Two bytes are left for the length of the data.
    assert_eq!(ccm::seal(&key, &[1; 13], b"", &mut data, 16), Err(Error::DataLength));
    assert!(data.iter().all(|byte| *byte == 7), "untouched");
    ccm::seal(&key, &[1; 13], b"", &mut data[1..], 16).unwrap();
}

/// The length of associated data is encoded in two, six or ten bytes.
#[test]
fn ccm_separates_associated_data_of_every_length() {
    let key = Key::new(Backend::best(), &EXAMPLE_KEY);
    let associated = vec![0; 65_300];
    let mut tags = Vec::new();
    for size in [0, 1, 13, 14, 15, 16, 65_279, 65_280, 65_281] {
        tags.push(ccm::seal(&key, &[1; 12], &associated[..size], &mut [], 16).unwrap());
    }
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), 9);
}

#[test]
fn a_dropped_key_is_overwritten() {
    for backend in backends() {
        let mut key = core::mem::ManuallyDrop::new(Key::new(backend, &EXAMPLE_KEY));
        key.forget();
        match &key.schedule {
            Schedule::Portable(schedule) => assert!(schedule.is_wiped()),
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx2(schedule) | Schedule::Avx512(schedule) => {
                assert_eq!(*schedule, [0; ROUNDS]);
            }
        }
    }
}
