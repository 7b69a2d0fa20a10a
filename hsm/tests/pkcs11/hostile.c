/* A PKCS#11 library that lies, one lie for each build: -DLIE_... chooses it. Only what the tests
 * call is there; all else answers "not supported". The types are those of PKCS#11 2.40. */

#include <string.h>

typedef unsigned long ulong;
typedef unsigned char byte;

struct version { byte major, minor; };
struct info { struct version spoken; byte maker[32]; ulong flags; byte text[32]; struct version own; };
struct attribute { ulong kind; void *value; ulong size; };

typedef ulong (*function)(void);
struct list { struct version version; function functions[68]; };

enum { OK = 0, NOT_SUPPORTED = 0x54, DEVICE_ERROR = 0x30, ALREADY_INITIALIZED = 0x191 };

static ulong not_supported(void) { return NOT_SUPPORTED; }
static int is_initialised;
static ulong initialise(void *arguments) {
    (void)arguments;
#ifdef LIE_INITIALISE
    return DEVICE_ERROR;
#else
    if (is_initialised) return ALREADY_INITIALIZED;
    is_initialised = 1;
    return OK;
#endif
}
static ulong finalise(void *reserved) {
    (void)reserved;
#ifdef LIE_FINALISE
    static int attempts;
    if (attempts++ == 0) return DEVICE_ERROR; /* and stays as it is */
#endif
    is_initialised = 0;
    return OK;
}

static int loads;
static ulong get_info(struct info *info) {
    memset(info, 0xff, sizeof *info);
    memcpy(info->maker, "bad\033[2J\n", 8);
    info->flags = is_initialised;
    info->own.major = loads++;
    return OK;
}

static ulong slots(byte present, ulong *place, ulong *count) {
    (void)present;
    if (!place) { *count =
#ifdef LIE_SLOTS
        1ul << 60;
#else
        1;
#endif
        return OK; }
    place[0] = 7;
    *count = 1;
    return OK;
}

static ulong mechanisms(ulong slot, ulong *place, ulong *count) {
    (void)slot;
    if (!place) { *count = 2; return OK; }
    place[0] = 0x80008001; place[1] = 0x80008105;
    *count = 3; /* more than there is room for */
    return OK;
}

static ulong open_session(ulong slot, ulong flags, void *a, void *b, ulong *session) {
    (void)slot; (void)flags; (void)a; (void)b;
    *session = 1;
    return OK;
}
static ulong close_session(ulong session) { (void)session; return OK; }
static ulong start(ulong session, void *mechanism, ulong key) {
    (void)session; (void)mechanism; (void)key;
    return OK;
}
static ulong sign(ulong session, byte *data, ulong size, byte *out, ulong *written) {
    (void)session; (void)data; (void)size; (void)out;
    *written = ~0ul;
    return OK;
}
static ulong find_start(ulong session, struct attribute *template, ulong count) {
    (void)session; (void)template; (void)count;
    return OK;
}
/* Never ends, and claims more than was asked for where three were. */
static ulong find_next(ulong session, ulong *found, ulong room, ulong *count) {
    static ulong next = 0;
    (void)session;
    for (ulong i = 0; i < room; i++) found[i] = ++next;
    *count = room == 3 ? room + 1 : room;
    return OK;
}
static ulong find_end(ulong session) { (void)session; return OK; }
static ulong attribute(ulong session, ulong object, struct attribute *asked, ulong count) {
    (void)session; (void)count;
    if (object == 1) { asked->size = asked->value ? asked->size + 1 : 1ul << 40; return OK; }
    if (object == 2) { ulong fits = !asked->value; asked->size = 1ul << 40; return fits ? OK : 0x150; }
    asked->size = ~0ul;
    return OK;
}
#ifdef LIE_PAD
/* No lie, but a rare kind: a token with a pad of its own. Whoever is asked presses "cancel" the
 * first time, and types the PIN the second. A PIN that comes through the library is no good. */
static ulong login(ulong session, ulong user, byte *pin, ulong size) {
    static int asked;
    (void)session; (void)user;
    if (pin || size) return 0xa0;
    return asked++ == 0 ? 0x50 : OK;
}
#else
static ulong login(ulong session, ulong user, byte *pin, ulong size) {
    (void)session; (void)user; (void)pin; (void)size;
    return 0xa0;
}
#endif
#if defined LIE_PAD || defined LIE_OLD
struct token_info {
    byte label[32], maker[32], model[16], serial[16];
    ulong flags, counts[10];
    struct version hardware, firmware;
    byte time[16];
};
static ulong token_info(ulong slot, struct token_info *info) {
    (void)slot;
    memset(info, ' ', sizeof *info);
    memset(info->counts, 0xff, sizeof info->counts);
#ifdef LIE_PAD
    info->flags = 0x100; /* CKF_PROTECTED_AUTHENTICATION_PATH */
#else
    info->flags = 0;
#endif
    return OK;
}
#endif

static struct list list;

#ifdef LIE_SHORT
#include <sys/mman.h>
/* The list of PKCS#11 1.0 ends early, here with the page it is on. */
static struct list *short_list(void) {
    byte *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(pages + 4096, 4096, PROT_NONE);
    struct version *version = (struct version *)(pages + 4096 - 8);
    version->major = 1;
    return (struct list *)version;
}
#endif

#ifndef LIE_SYMBOL
ulong C_GetFunctionList(struct list **place) {
    for (int i = 0; i < 68; i++) list.functions[i] = not_supported;
    list.functions[0] = (function)initialise;
    list.functions[1] = (function)finalise;
    list.functions[2] = (function)get_info;
    list.functions[4] = (function)slots;
    list.functions[7] = (function)mechanisms;
    list.functions[12] = (function)open_session;
    list.functions[13] = (function)close_session;
    list.functions[18] = (function)login;
    list.functions[24] = (function)attribute;
    list.functions[26] = (function)find_start;
    list.functions[27] = (function)find_next;
    list.functions[28] = (function)find_end;
    list.functions[42] = (function)start;
    list.functions[43] = (function)sign;
    list.version.major = 2;
    list.version.minor = 40;
    *place = &list;
#if defined LIE_PAD || defined LIE_OLD
    list.functions[6] = (function)token_info;
#endif
#if defined LIE_VERSION
    list.version.minor = 11;
#elif defined LIE_OLD
    list.version.minor = 20; /* a good one, of 2004 */
#elif defined LIE_SHORT
    *place = short_list();
#elif defined LIE_FUNCTIONS
    list.functions[0] = list.functions[43] = 0;
#elif defined LIE_LIST
    *place = 0;
#elif defined LIE_ERROR
    return DEVICE_ERROR;
#elif defined LIE_ALIGNMENT
    *place = (struct list *)((byte *)&list + 1);
#endif
    return OK;
}
#endif

#ifdef LIE_INTERFACE
/* Says that it gave an interface, and gave none: the old way must be tried. */
ulong C_GetInterface(byte *name, struct version *version, void **place, ulong flags) {
    (void)name; (void)version; (void)flags;
    *place = 0;
    return OK;
}
#endif
