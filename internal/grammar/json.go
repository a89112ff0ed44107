package grammar

import "sync"

// How JSON is written. Where JSON allows blanks an answer may have none, one space, or one or two line ends and up to 20
// blanks of indentation: as much as any usual layout needs, and no way to go on with blanks for ever. There are none
// before a comma or colon, and none before and after the whole text.
var (
	blanks = named("blanks", choice{literal(""), literal(" "), sequence{repeat{literal("\n"), 1, 2}, repeat{chars(" \t"), 0, 20}}})

	digit    = between('0', '9')
	hexDigit = union(digit, between('a', 'f'), between('A', 'F'))

	// Characters that a JSON string has as they are: all but control characters, the quotation mark and the backslash.
	bareChar = anyChar.without(union(between(0, 0x1F), chars(`"\`)))
	// A character by its number. Surrogates come in pairs, or they would stand for no character.
	numberedChar = sequence{literal(`\u`), choice{
		sequence{union(digit, chars("abcefABCEF")), hexDigit, hexDigit, hexDigit},
		sequence{chars("dD"), between('0', '7'), hexDigit, hexDigit},
		sequence{chars("dD"), chars("89abAB"), hexDigit, hexDigit, literal(`\u`), chars("dD"), chars("cdefCDEF"), hexDigit, hexDigit},
	}}
	escapedChar = choice{sequence{literal(`\`), chars(`"\/bfnrt`)}, numberedChar}
	stringChar  = choice{bareChar, escapedChar}

	anyString = named("string", sequence{literal(`"`), star(stringChar), literal(`"`)})

	// Numbers are bounded as well: 18 digits before the point (they fit an int64), 16 after it, an exponent of two.
	naturalNumber = choice{literal("0"), sequence{between('1', '9'), repeat{digit, 0, 17}}}
	anyFraction   = sequence{literal("."), repeat{digit, 1, 16}}
	anyExponent   = sequence{chars("eE"), optional(chars("+-")), repeat{digit, 1, 2}}
	anyInteger    = named("integer", choice{literal("0"), sequence{optional(literal("-")), between('1', '9'), repeat{digit, 0, 17}}})
	anyNumber     = named("number", sequence{optional(literal("-")), naturalNumber, optional(anyFraction), optional(anyExponent)})

	anyBoolean = choice{literal("true"), literal("false")}
	null       = literal("null")

	anyValue, anyObject, anyArray = values()
)

func values() (value, object, array expr) {
	v := &rule{name: "value"}
	value = call{v}
	object = named("object", braces(separated(sequence{anyString, literal(":"), blanks, value})))
	array = named("array", brackets(separated(value)))
	v.body = choice{object, array, anyString, anyNumber, anyBoolean, null}
	return value, object, array
}

// comma goes between members and elements.
var comma = sequence{literal(","), blanks}

// separated is one or more of an expression with commas between them.
func separated(of expr) expr { return sequence{of, star(sequence{comma, of})} }

// braces and brackets put an expression between its signs; it may be left out.
func braces(in expr) expr {
	return sequence{literal("{"), blanks, optional(sequence{in, blanks}), literal("}")}
}

func brackets(in expr) expr {
	return sequence{literal("["), blanks, optional(sequence{in, blanks}), literal("]")}
}

// JSONObject is any JSON object: {…} with any values in it.
func JSONObject() *Grammar { return jsonObject() }

var jsonObject = sync.OnceValue(func() *Grammar {
	g, err := compile(anyObject)
	if err != nil {
		panic(err)
	}
	return g
})
