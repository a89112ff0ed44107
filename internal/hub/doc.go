// Package hub finds Llama checkpoints on this machine and downloads them from ModelScope and Hugging Face.
//
// # Terminology
//
// A hub is one of the two sites, written ms (ModelScope) and hf (Hugging Face). A repository is ORG/NAME on a hub, at a
// revision: a branch, tag or commit. A [Ref] names all three and is written ms://ORG/NAME, hf://ORG/NAME or ORG/NAME
// (any hub), with an optional @REVISION. A segment is a range of a big file that one connection fetches. A part is a
// file whose bytes have not all arrived. A digest is what the listing of a hub says of a file's content.
//
// # Where things are
//
// [Pull] writes to <user cache dir>/chulengo/hub/<ms|hf>/ORG/NAME, with @REVISION appended for a revision other than
// the hub's default one, or to [Options].Dir. That folder is an ordinary checkpoint folder; beside the files of the
// repository it holds .chulengo/ with
//
//	lock           held (flock) while a process pulls into the folder; the kernel drops it when the process dies
//	hashes.json    what was verified: path, size, modification time, digest
//	parts/         unfinished files: NAME.part with the bytes, NAME.part.json with what of it has arrived
//
// [Find] looks through this folder and through the caches of the two Python clients, whose variables it honours:
// MODELSCOPE_CACHE; HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME.
//
// # What is downloaded
//
// Without [Options].Include everything but original/* and *.pth (Meta's own format, the same weights once more) and
// the .gitattributes and .gitignore of the repository. With Include, what one of its globs matches. Exclude is applied
// last. Globs are those of both Python clients: matched against the whole path, case counts, * also crosses slashes,
// and a trailing slash means everything below.
//
// # Integrity
//
// The listings give a SHA-256 for each file (ModelScope), or for each big file, and a git object id for the small ones
// (Hugging Face). A file is renamed into place, atomically, only after its size and digest were checked. The git
// object id counts only where the server's ETag repeats it: mirrors are known to list ids of their own. Where no
// digest is listed, the size decides.
//
// A file that is already in the folder is verified the same way and kept. Hashing 200 GB takes minutes, so the
// result is remembered in hashes.json under size and modification time, and a file whose three facts are unchanged is
// not read again ([Options].Rehash reads it all the same). The same goes for files in the cache of the hub's Python
// client: they are hashed once, then linked into the folder, or copied if they lie on another disk.
//
// # Interruptions
//
// A pull that is cancelled or killed goes on where it was: at most a second's worth of bytes is fetched again. A part
// is resumed with Range and If-Range while listing and ETag are what they were; else it starts over. Connections that
// break or stall are opened again at the byte they had reached, with growing pauses, and Retry-After is obeyed. A power
// failure may lose bytes that were counted: the digest notices, and the file is fetched once more.
//
// # Network
//
// HTTP_PROXY, HTTPS_PROXY and NO_PROXY apply. HF_ENDPOINT, MODELSCOPE_ENDPOINT and MODELSCOPE_DOMAIN choose a mirror.
// HF_TOKEN, HUGGING_FACE_HUB_TOKEN or the token file of `hf auth login` (HF_TOKEN_PATH, HF_HOME), and
// MODELSCOPE_API_TOKEN or MODELSCOPE_SDK_TOKEN go to the chosen endpoint and to no other host, whatever redirects say.
// HF_HUB_OFFLINE forbids requests to Hugging Face.
//
// # Errors
//
// Every error a user can meet is an [*Error]: English by Error, Chinese or English by Localized, and a class (ErrGated,
// ErrNoSpace, …) for errors.Is.
package hub
