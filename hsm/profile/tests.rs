use super::*;

fn card(library: &str, token: &str, model: &str) -> CardIdentity {
    CardIdentity {
        library_manufacturer: library.to_owned(),
        library_version: (2, 40),
        token_label: "any".to_owned(),
        token_manufacturer: token.to_owned(),
        token_model: model.to_owned(),
        token_serial: "1".to_owned(),
        firmware_version: (1, 0),
        hardware_version: (1, 0),
    }
}

fn named(name: &str) -> Profile {
    Profile::shipped().unwrap().into_iter().find(|profile| profile.name == name).unwrap()
}

#[test]
fn every_shipped_profile_reads_is_named_as_its_file_and_signs_e() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles")).unwrap();
    let mut files: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| file.ends_with(".toml"))
        .collect();
    files.sort();
    let shipped: Vec<&str> = SHIPPED.iter().map(|(file, _)| *file).collect();
    assert_eq!(files, shipped, "each file is compiled in, in this order");
    for (file, text) in SHIPPED {
        let profile = Profile::parse(file, text).unwrap();
        assert_eq!(format!("{}.toml", profile.name), *file);
        assert!(profile.sign_prehashed().is_some(), "{file}");
        assert!(!profile.source.is_empty() && !profile.title.is_empty(), "{file}");
        let written = profile.to_toml().unwrap();
        assert_eq!(Profile::parse(file, &written).unwrap(), profile, "written and read back");
        let sign = format!("\nmechanism = {:#x}\n", profile.sm2.sign[0].mechanism);
        assert!(written.contains(&sign), "codes as vendors write them: {written}");
    }
}

#[test]
fn codes_are_those_of_the_vendors_headers() {
    let sansec = named("sansec");
    assert_eq!(sansec.sm2.key_type, 0x8000_0004);
    assert_eq!(sansec.sign_prehashed().unwrap().mechanism, 0x8000_8105);
    assert_eq!(sansec.sm4.unwrap().generate, 0x8000_0107);
    assert_eq!(named("luna").sm2.generate, [0x8000_0b20]);
    assert_eq!(named("wosign").sm2.key_type, 0x0001_0001, "outside the vendors' range");
}

#[test]
fn one_profile_is_chosen_by_library_and_token_and_none_is_guessed() {
    let shipped = Profile::shipped().unwrap();
    let chosen = |library: &str| Profile::choose(&shipped, &card(library, "", ""));
    assert_eq!(chosen("SANSEC Technology").unwrap().name, "sansec");
    assert_eq!(chosen("IBM").unwrap().name, "ep11");
    let refused = chosen("Nobody").unwrap_err().to_string();
    assert!(refused.contains("Nobody") && refused.contains("hufu hsm probe"), "{refused}");
    let both = Profile { name: "sansec-2".to_owned(), ..named("sansec") };
    let two = [both, named("sansec")];
    let refused = Profile::choose(&two, &card("Sansec", "", "")).unwrap_err().to_string();
    assert!(refused.contains("sansec-2, sansec"), "{refused}");
}

#[test]
fn every_condition_of_a_match_is_asked_and_named() {
    let mut profile = named("tass");
    profile.matches = Match {
        library_manufacturer: vec!["tass*".to_owned()],
        token_manufacturer: vec!["TASS".to_owned()],
        token_model: vec!["SJK*G".to_owned(), "SJJ*".to_owned()],
        library_version_min: Some((2, 30)),
        library_version_max: Some((2, 99)),
    };
    let good = card("Tass Ltd", "tass", "SJK1828-G");
    profile.fits(&good).unwrap();
    let cases = [
        (card("Other", "tass", "SJK1-G"), "library_manufacturer"),
        (card("Tass", "tass2", "SJK1-G"), "token_manufacturer"),
        (card("Tass", "tass", "SJK1-H"), "token_model"),
        (CardIdentity { library_version: (2, 29), ..good.clone() }, "library_version"),
        (CardIdentity { library_version: (3, 0), ..good }, "library_version"),
    ];
    for (card, field) in cases {
        let refused = profile.fits(&card).unwrap_err().to_string();
        assert!(refused.contains(field), "{refused}");
    }
}

#[test]
fn patterns_stand_for_what_they_look_like() {
    let cases = [
        ("abc", "ABC", true),
        ("abc", "abcd", false),
        ("*", "", true),
        ("a*", "a", true),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "acb", false),
        ("ab*ba", "aba", false),
        ("*b*", "abc", true),
        ("*b*b*", "abc", false),
        ("*三未*", "北京三未信安", true),
        ("", "", true),
        ("", "a", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(is_like(pattern, text), expected, "{pattern:?} {text:?}");
    }
}

#[test]
fn a_faulty_profile_is_refused_with_its_place_and_reason() {
    let text = SHIPPED.iter().find(|(file, _)| *file == "sansec.toml").unwrap().1;
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from:?} is there to be replaced");
        Profile::parse("my.toml", &text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    let cases = [
        (with("name = \"sansec\"", "name = \"San Sec\""), "lower case"),
        (with("point_form = \"octet\"", "point_form = \"round\""), "round"),
        (with("point_form = \"octet\"", "point_form = \"xy\""), "point_y_attribute"),
        (with("key_type = 0x80000004", "key_type = -1"), "key_type"),
        (with("key_type = 0x80000004\n", ""), "key_type"),
        (with("generate = [0x80008001]", "generate = []"), "sm2.generate"),
        (with("[sm3]", "[sm5]"), "sm5"),
        (with("ecb = 0x80000108\ncbc = 0x80000109\n", ""), "ecb, cbc or gcm"),
        (with("library_manufacturer = [", "library_maker = ["), "library_maker"),
        (with("[sm3]", "[return_values]\nsession = [0xa0]\n\n[sm3]"), "never tried again"),
        (with("[sm3]", "[return_values]\nsession = [0]\n\n[sm3]"), "CKR_OK"),
        (with("[sm3]", "[return_values]\nlogin = [5]\nthrottled = [5]\n\n[sm3]"), "two classes"),
    ];
    for (refused, reason) in cases {
        assert!(refused.contains("my.toml") && refused.contains(reason), "{reason}: {refused}");
    }
    let large = Profile::parse("my.toml", &"#".repeat(PROFILE_BYTES_MAX + 1)).unwrap_err();
    assert!(large.to_string().contains("at most"), "{large}");
    let nothing = text.replacen("library_manufacturer", "# library_manufacturer", 1);
    let refused = Profile::parse("my.toml", &nothing).unwrap_err().to_string();
    assert!(refused.contains("every card"), "{refused}");
}

#[test]
fn a_profile_says_what_a_vendors_return_values_mean() {
    let mut profile = named("sansec");
    assert_eq!(profile.class(Rv(0x30)), ErrorClass::TokenLost);
    assert_eq!(profile.class(Rv(0x8000_0200)), ErrorClass::Permanent);
    profile.return_values.throttled = vec![0x8000_0200, 0x30];
    assert_eq!(profile.class(Rv(0x8000_0200)), ErrorClass::Throttled);
    assert_eq!(profile.class(Rv(0x30)), ErrorClass::Throttled);
}
