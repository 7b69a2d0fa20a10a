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
