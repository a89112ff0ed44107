// Tools, JSON schemas and what else holds answers to a form, through OpenAI's own client, with the demo checkpoint. The
// first argument is the server's address.
import assert from 'node:assert/strict'
import OpenAI from 'openai'

const client = new OpenAI({ baseURL: process.argv[2] + '/v1', apiKey: 'none', maxRetries: 0 })
const model = 'chulengo-demo'
const ask = (fields) => ({ model, messages: [{ role: 'user', content: 'What is the weather in Paris?' }], temperature: 0, max_tokens: 200, ...fields })
const tool = (name, properties, required) => ({ type: 'function', function: { name, description: 'It is ' + name, parameters: { type: 'object', properties, required, additionalProperties: false } } })
const tools = [
  tool('weather', { city: { type: 'string', enum: ['Paris', 'Rome'] }, days: { type: 'integer', minimum: 1, maximum: 7 } }, ['city', 'days']),
  tool('time', { zone: { type: 'string', maxLength: 5 } }, ['zone']),
]
const fits = ({ function: { name, arguments: text } }) => {
  const v = JSON.parse(text)
  if (name === 'weather') return ['Paris', 'Rome'].includes(v.city) && v.days >= 1 && v.days <= 7
  return name === 'time' && v.zone.length <= 5
}

// A forced call, whole and streamed, gives the same.
for (const tool_choice of ['required', { type: 'function', function: { name: 'weather' } }, { type: 'function', function: { name: 'time' } }]) {
  const fields = { tools, tool_choice, parallel_tool_calls: false }
  const { choices: [choice] } = await client.chat.completions.create(ask(fields))
  const [call, ...more] = choice.message.tool_calls
  assert.equal(more.length, 0)
  assert.equal(choice.finish_reason, 'tool_calls')
  assert.ok(!choice.message.content, JSON.stringify(choice))
  assert.ok(call.id && fits(call), JSON.stringify(call))
  if (tool_choice.function) assert.equal(call.function.name, tool_choice.function.name)

  const runner = client.chat.completions.stream(ask(fields))
  let begins = 0, streamed = ''
  runner.on('chunk', (chunk) => {
    for (const piece of chunk.choices[0]?.delta?.tool_calls ?? []) {
      begins += piece.function.name ? 1 : 0
      streamed += piece.function.arguments ?? ''
    }
  })
  const final = (await runner.finalChatCompletion()).choices[0]
  assert.equal(begins, 1)
  assert.equal(streamed, call.function.arguments)
  assert.deepEqual(final.message.tool_calls[0].function, { ...final.message.tool_calls[0].function, ...call.function })
  assert.equal(final.finish_reason, 'tool_calls')

  // The round trip: the call and its result are a conversation.
  const { choices: [next] } = await client.chat.completions.create(ask({
    tools, max_tokens: 20,
    messages: [...ask({}).messages, choice.message, { role: 'tool', tool_call_id: call.id, content: '{"sky": "blue"}' }],
  }))
  assert.equal(next.message.role, 'assistant')
}

// The client's own loop over tools.
let called = 0
const loop = client.chat.completions.runTools(ask({
  tool_choice: { type: 'function', function: { name: 'weather' } }, parallel_tool_calls: false,
  tools: [{ type: 'function', function: { ...tools[0].function, parse: JSON.parse, function: ({ city }) => (called++, `sunny in ${city}`) } }],
}), { maxChatCompletions: 2 })
await loop.done().catch(() => {})
assert.ok(called >= 1)

// Tools that may be called, and tools that may not.
for (const tool_choice of ['auto', 'none']) {
  const { choices: [choice] } = await client.chat.completions.create(ask({ tools, tool_choice, max_tokens: 30 }))
  assert.ok(choice.message.content || choice.message.tool_calls)
  if (tool_choice === 'none') assert.ok(!choice.message.tool_calls)
}

// Answers that follow a schema, at any temperature.
const schema = {
  type: 'object', additionalProperties: false, required: ['city', 'sunny', 'days', 'wind'],
  properties: {
    city: { type: 'string', maxLength: 12 }, sunny: { type: 'boolean' }, wind: { anyOf: [{ type: 'integer', minimum: 0, maximum: 99 }, { type: 'null' }] },
    days: { type: 'array', items: { enum: ['Mon', 'Tue'] }, minItems: 1, maxItems: 3 },
  },
}
const response_format = { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema } }
for (let seed = 0; seed < 8; seed++) {
  const { choices } = await client.chat.completions.create(ask({ response_format, temperature: seed / 4, seed, n: 2 }))
  for (const { message, finish_reason } of choices) {
    assert.equal(finish_reason, 'stop', message.content)
    const v = JSON.parse(message.content)
    assert.deepEqual(Object.keys(v), ['city', 'sunny', 'wind', 'days']) // as the schema has them
    assert.ok([...v.city].length <= 12 && typeof v.sunny === 'boolean' && v.days.length >= 1 && v.days.length <= 3 && (v.wind === null || v.wind <= 99))
    assert.ok(v.days.every((d) => d === 'Mon' || d === 'Tue'))
  }
}
const parsed = await client.chat.completions.parse(ask({ response_format }))
assert.equal(typeof JSON.parse(parsed.choices[0].message.content).sunny, 'boolean')

const text = async (fields) => (await client.chat.completions.create(ask(fields))).choices[0].message.content
assert.match(await text({ regex: '[a-c]{3}-[0-9]{2}' }), /^[a-c]{3}-[0-9]{2}$/)
assert.match(await text({ grammar: 'root ::= ("yes" | "no") "!"' }), /^(yes|no)!$/)
assert.ok((await text({ response_format: { type: 'json_object' }, max_tokens: 40 })).trimStart().startsWith('{'))

// What cannot be enforced says which field it is.
for (const [fields, param] of [
  [{ response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'bad' } } } }, 'response_format.json_schema.schema'],
  [{ tools: [{ type: 'function', function: { name: 'x', parameters: { type: 'bad' } } }], tool_choice: 'required' }, 'tools'],
  [{ regex: '(' }, 'regex'],
  [{ grammar: 'nothing' }, 'grammar'],
]) {
  await assert.rejects(client.chat.completions.create(ask(fields)), (e) => {
    assert.deepEqual([e.status, e.param], [400, param])
    return true
  })
}
console.log('ok')
