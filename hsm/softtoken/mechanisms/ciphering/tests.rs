use super::*;
use crate::imitations::Block;

const MODES: [Mode; 5] = [Mode::Ecb, Mode::Cbc, Mode::CbcPad, Mode::Ctr, Mode::Gcm];

fn parameter(mode: Mode) -> Parameter {
    match mode {
        Mode::Ecb => Parameter::None,
        Mode::Cbc | Mode::CbcPad => Parameter::Bytes(vec![3; 16]),
        Mode::Ctr => Parameter::Bytes([&128_u64.to_ne_bytes()[..], &[0xff; 16]].concat()),
        Mode::Gcm => Parameter::Gcm { nonce: vec![1; 12], associated: vec![2; 5], tag_bits: 128 },
    }
}

fn start(block: Block, mode: Mode, direction: Direction) -> Ciphering {
    let key = Arc::new(Prepared::Secret(Zeroizing::new(vec![7; 16])));
    let call =
        Call { code: 0, algorithm: Algorithm::Block(block, mode), parameter: parameter(mode) };
    Ciphering::start(&call, key, direction).unwrap()
}

/// Every mode gives the same in one part and in parts of any size, and tells its sizes truly.
#[test]
fn parts_and_whole_are_equal() {
    for size in [0, 16, 32, 96, 1, 15, 17, 95] {
        let text: Vec<u8> = (0..size).collect();
        for (block, mode) in [Block::Aes, Block::Sm4].iter().flat_map(|b| MODES.map(|m| (*b, m))) {
            if size % 16 == 0 || !matches!(mode, Mode::Ecb | Mode::Cbc) {
                compare_parts_and_whole(block, mode, &text);
            }
        }
    }
}

fn compare_parts_and_whole(block: Block, mode: Mode, text: &Vec<u8>) {
    let whole = start(block, mode, Direction::Encrypt).whole(text).unwrap();
    for (direction, input, output) in
        [(Direction::Encrypt, text, &whole), (Direction::Decrypt, &whole, text)]
    {
        for part_size in [1, 7, 16, 17, 48, 200] {
            let mut ciphering = start(block, mode, direction);
            let mut given = Vec::new();
            for part in input.chunks(part_size) {
                let told = ciphering.update_size(part.len());
                let got = ciphering.update(part).unwrap();
                assert_eq!(got.len(), told, "{block:?} {mode:?} {direction:?} {part_size}");
                given.extend(got);
            }
            let told = ciphering.finish_size_max(0);
            let rest = ciphering.finish().unwrap();
            assert!(rest.len() <= told);
            assert_eq!(rest, ciphering.finish().unwrap(), "finishing changes nothing");
            given.extend(rest);
            assert_eq!(&given, output, "{block:?} {mode:?} {direction:?} {part_size}");
        }
    }
}

#[test]
fn lengths_and_padding_are_checked() {
    for mode in [Mode::Ecb, Mode::Cbc] {
        let refused = start(Block::Sm4, mode, Direction::Encrypt).whole(&[0; 17]);
        assert_eq!(refused, Err(CKR_DATA_LEN_RANGE));
        let refused = start(Block::Sm4, mode, Direction::Decrypt).whole(&[0; 17]);
        assert_eq!(refused, Err(CKR_ENCRYPTED_DATA_LEN_RANGE));
    }
    let decrypt = start(Block::Sm4, Mode::CbcPad, Direction::Decrypt);
    assert_eq!(decrypt.whole(&[0; 32]), Err(CKR_ENCRYPTED_DATA_INVALID));
    assert_eq!(decrypt.whole(&[0; 0]), Err(CKR_ENCRYPTED_DATA_LEN_RANGE));
    let decrypt = start(Block::Aes, Mode::Gcm, Direction::Decrypt);
    assert_eq!(decrypt.whole(&[0; 15]), Err(CKR_ENCRYPTED_DATA_LEN_RANGE));
    assert_eq!(decrypt.whole(&[0; 16]), Err(CKR_ENCRYPTED_DATA_INVALID));
}

#[test]
fn parameters_are_checked() {
    let key = || Arc::new(Prepared::Secret(Zeroizing::new(vec![7; 16])));
    let counter = |bits: u64| Parameter::Bytes([&bits.to_ne_bytes()[..], &[0; 16]].concat());
    let gcm = |nonce: usize, tag_bits| Parameter::Gcm {
        nonce: vec![0; nonce],
        associated: Vec::new(),
        tag_bits,
    };
    let bad = [
        (Mode::Ecb, Parameter::Bytes(vec![0; 16])),
        (Mode::Cbc, Parameter::None),
        (Mode::Cbc, Parameter::Bytes(vec![0; 15])),
        (Mode::Ctr, Parameter::Bytes(vec![0; 16])),
        (Mode::Ctr, counter(0)),
        (Mode::Ctr, counter(129)),
        (Mode::Gcm, Parameter::None),
        (Mode::Gcm, gcm(0, 128)),
        (Mode::Gcm, gcm(12, 64)),
        (Mode::Gcm, gcm(12, 127)),
    ];
    for (mode, parameter) in bad {
        let algorithm = Algorithm::Block(Block::Sm4, mode);
        let call = Call { code: 0, algorithm, parameter };
        let refused = Ciphering::start(&call, key(), Direction::Encrypt).err();
        assert_eq!(refused, Some(CKR_MECHANISM_PARAM_INVALID), "{call:?}");
    }
    let algorithm = Algorithm::Block(Block::Aes, Mode::Ctr);
    let mut parameter = [0xff; 24];
    parameter[..8].copy_from_slice(&8_u64.to_ne_bytes());
    parameter[23] = 0xfe;
    let call = Call { code: 0, algorithm, parameter: Parameter::Bytes(parameter.to_vec()) };
    let narrow = Ciphering::start(&call, key(), Direction::Encrypt).unwrap();
    assert!(narrow.whole(&[0; 32]).is_ok());
    assert_eq!(narrow.whole(&[0; 33]), Err(CKR_DATA_LEN_RANGE));
}

#[test]
fn sm2_in_both_forms() {
    let signer = hufu_crypto::SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let key = Arc::new(Prepared::Sm2(Box::new(signer)));
    for form in [CipherForm::Raw, CipherForm::Der] {
        let call =
            Call { code: 0, algorithm: Algorithm::Sm2Encrypt(form), parameter: Parameter::None };
        let encrypt = Ciphering::start(&call, Arc::clone(&key), Direction::Encrypt).unwrap();
        let mut sealed = encrypt.whole(b"text").unwrap();
        assert!(sealed.len() <= encrypt.finish_size_max(4));
        assert_eq!(encrypt.whole(b""), Err(CKR_DATA_LEN_RANGE));
        let decrypt = Ciphering::start(&call, Arc::clone(&key), Direction::Decrypt).unwrap();
        assert_eq!(decrypt.whole(&sealed).unwrap(), b"text");
        *sealed.last_mut().unwrap() ^= 1;
        assert_eq!(decrypt.whole(&sealed), Err(CKR_ENCRYPTED_DATA_INVALID));
    }
}
