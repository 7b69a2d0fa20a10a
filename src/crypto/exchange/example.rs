//! The example of GB/T 32918.5-2017 annex B.2, for the self-test and the tests.

use super::{Initiator, Own, Party, PublicKey};
use crate::digest::{Digest, decode_hex};
use crate::{Backend, IDENTITY_DEFAULT, Signer as _, SoftwareSigner, identity_digest};

/// One side of the example of GB/T 32918.5-2017 annex B.2: d, P, r and R.
struct Example {
    private: &'static str,
    public: &'static str,
    scalar: &'static str,
    point: &'static str,
}

const A: Example = Example {
    private: "81EB26E941BB5AF16DF116495F90695272AE2CD63D6C4AE1678418BE48230029",
    public: "160E12897DF4EDB61DD812FEB96748FBD3CCF4FFE26AA6F6DB9540AF49C94232\
             4A7DAD08BB9A459531694BEB20AA489D6649975E1BFCF8C4741B78B4B223007F",
    scalar: "D4DE15474DB74D06491C440D305E012400990F3E390C7E87153C12DB2EA60BB3",
    point: "64CED1BDBC99D590049B434D0FD73428CF608A5DB8FE5CE07F15026940BAE40E\
            376629C7AB21E7DB260922499DDB118F07CE8EAAE3E7720AFEF6A5CC062070C0",
};
const B: Example = Example {
    private: "785129917D45A9EA5437A59356B82338EAADDA6CEB199088F14AE10DEFA229B5",
    public: "6AE848C57C53C7B1B5FA99EB2286AF078BA64C64591B8B566F7357D576F16DFB\
             EE489D771621A27B36C5C7992062E9CD09A9264386F3FBEA54DFF69305621C4D",
    scalar: "7E07124814B309489125EAED101113164EBF0F3458C5BD88335C1F9D596243D6",
    point: "ACC27688A6F7B706098BC91FF3AD1BFF7DC2802CDB14CCCCDB0A90471F9BD707\
            2FEDAC0494B2FFC4D6853876C79B8F301C6573AD0AA50F39FC87181E1A1B46FE",
};
const KEY: &str = "6C89347354DE2484C60B4AB1FDE4C6E5";
const FROM_B: &str = "D3A0FE15DEE185CEAE907A6B595CC32A266ED7B3367E9983A896DC32FA20F8EB";
const FROM_A: &str = "18C7894B3816DF16CF07B05C5EC0BEF5D655D58F779CC1B400A4F3884644DB88";

fn hex<const SIZE: usize>(text: &str) -> Result<[u8; SIZE], ()> {
    let mut bytes = [0; SIZE];
    decode_hex(text, &mut bytes).ok_or(())?;
    Ok(bytes)
}

impl Example {
    fn own(&self, backend: Backend) -> Result<(PublicKey, Own), ()> {
        let private = hex(self.private)?;
        let key = PublicKey(hex(self.public)?);
        let signer = SoftwareSigner::from_bytes(&private).map_err(drop)?;
        let identity = identity_digest(IDENTITY_DEFAULT, &key);
        let own = Own::with(backend, &private, &identity, &hex(self.scalar)?).ok_or(())?;
        let is_right = signer.public_key() == &key && own.point == PublicKey(hex(self.point)?);
        if is_right { Ok((key, own)) } else { Err(()) }
    }
}

/// Both sides reach the key and the confirmations of the standard.
pub(super) fn meet(backend: Backend) -> Result<(), ()> {
    let (key_a, a) = A.own(backend)?;
    let (key_b, b) = B.own(backend)?;
    let (za, zb) = (a.identity, b.identity);
    let party_a = Party { key: &key_a, identity: &za };
    let party_b = Party { key: &key_b, identity: &zb };
    let wanted: [u8; 16] = hex(KEY)?;
    let point = a.point;
    let (responder, answer) = b.answer(backend, party_a, &point, wanted.len()).map_err(drop)?;
    let initiator = Initiator { backend, own: a };
    let (key, confirmation) = initiator.finish(party_b, &answer, wanted.len()).map_err(drop)?;
    let is_right = answer.confirmation == Digest(hex(FROM_B)?)
        && confirmation == Digest(hex(FROM_A)?)
        && *key == wanted
        && *responder.confirm(&confirmation).map_err(drop)? == wanted;
    if is_right { Ok(()) } else { Err(()) }
}
