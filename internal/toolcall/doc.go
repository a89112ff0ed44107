// Package toolcall finds the calls of tools in what a Llama 4 model writes, while it writes, and says how a model can be held
// to calling one.
//
// # Forms
//
// Llama 4 was taught two forms. JSON objects, one or several, separated by semicolons or line breaks or in a list:
//
//	{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "weather", "parameters": {"city": "Rome"}}
//
// ("arguments" is read as well, and so are "type" and "id" beside them, in any order), and calls as in Python:
//
//	[weather(city="Paris", days=2), time(zone=None)]
//
// Prose may stand before and after, and <|python_tag|> before. Arguments always come out as JSON text.
//
// # What is held back
//
// Text is passed on at once, except from a {, [ or < on that may still begin a call: as long as it agrees with one of the
// forms and with the name of a tool. From "parameters": { on, a JSON call's arguments are passed on as they come; a Python
// call's come when its ) has. Text that only looked like a call is passed on unchanged. How the text is cut into pieces
// changes nothing but the pieces.
package toolcall
