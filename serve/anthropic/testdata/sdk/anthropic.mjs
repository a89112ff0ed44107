// What Anthropic's own client for Node makes of the demo checkpoint's answers. The first argument is the server's address.
import assert from 'node:assert/strict'
import Anthropic from '@anthropic-ai/sdk'

const client = new Anthropic({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 0 })
const model = 'claude-of-any-name'
const ask = (fields) => ({ model, system: 'Be brief.', messages: [{ role: 'user', content: 'What is the capital of France?' }], temperature: 0, max_tokens: 40, ...fields })

// A message, whole and streamed.
const whole = await client.messages.create(ask())
assert.equal(whole.role, 'assistant')
assert.equal(whole.stop_reason, 'end_turn')
const text = whole.content.map((b) => b.text).join('')
assert.ok(text.length > 0)
const stream = client.messages.stream(ask())
let streamed = ''
stream.on('text', (piece) => { streamed += piece })
const final = await stream.finalMessage()
assert.equal(streamed, text)
assert.deepEqual([final.stop_reason, final.content[0].text], ['end_turn', text])
assert.equal(final.usage.output_tokens, whole.usage.output_tokens)

const kinds = []
for await (const event of await client.messages.create(ask({ stream: true }))) if (kinds.at(-1) !== event.type) kinds.push(event.type)
assert.deepEqual(kinds, ['message_start', 'content_block_start', 'content_block_delta', 'content_block_stop', 'message_delta', 'message_stop'])

const { input_tokens } = await client.messages.countTokens({ model, system: ask().system, messages: ask().messages })
assert.equal(input_tokens, whole.usage.input_tokens + (whole.usage.cache_read_input_tokens ?? 0))

const short = await client.messages.create(ask({ max_tokens: 2 }))
assert.deepEqual([short.stop_reason, short.usage.output_tokens], ['max_tokens', 2])
const word = text.trim().split(' ')[2]
const stopped = await client.messages.create(ask({ stop_sequences: [word] }))
assert.deepEqual([stopped.stop_reason, stopped.stop_sequence], ['stop_sequence', word])

// Tools: forced ones are called with arguments that follow their schema.
const tools = [
  { name: 'weather', description: 'The weather', input_schema: { type: 'object', required: ['city', 'days'], additionalProperties: false,
    properties: { city: { type: 'string', enum: ['Paris', 'Rome'] }, days: { type: 'integer', minimum: 1, maximum: 7 } } } },
  { name: 'time', input_schema: { type: 'object', required: ['zone'], additionalProperties: false, properties: { zone: { type: 'string', maxLength: 5 } } } },
]
const fits = ({ name, input }) => name === 'weather' ? ['Paris', 'Rome'].includes(input.city) && input.days >= 1 && input.days <= 7 : [...input.zone].length <= 5
for (const choice of [{ type: 'any' }, { type: 'tool', name: 'weather' }, { type: 'tool', name: 'time' }]) {
  const fields = { tools, tool_choice: { ...choice, disable_parallel_tool_use: true }, max_tokens: 100 }
  const message = await client.messages.create(ask(fields))
  assert.equal(message.stop_reason, 'tool_use', JSON.stringify(message))
  const [call, ...more] = message.content
  assert.equal(more.length, 0)
  assert.ok(call.type === 'tool_use' && call.id && fits(call), JSON.stringify(call))
  if (choice.name) assert.equal(call.name, choice.name)

  const runner = client.messages.stream(ask(fields))
  let json = ''
  runner.on('inputJson', (piece) => { json += piece })
  const again = await runner.finalMessage()
  assert.deepEqual([again.stop_reason, again.content.length, again.content[0].name, again.content[0].input], ['tool_use', 1, call.name, call.input])
  assert.deepEqual(JSON.parse(json), call.input)

  // The round trip: the call and its result are a conversation, which can be counted as well.
  const messages = [...ask().messages, { role: 'assistant', content: message.content },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: 'sunny' }, { type: 'text', text: 'So?' }] }]
  const next = await client.messages.create(ask({ tools, messages, max_tokens: 10 }))
  assert.equal(next.role, 'assistant')
  const counted = await client.messages.countTokens({ model, system: ask().system, tools, messages })
  assert.equal(counted.input_tokens, next.usage.input_tokens + (next.usage.cache_read_input_tokens ?? 0))
}
assert.ok(!(await client.messages.create(ask({ tools, tool_choice: { type: 'none' } }))).content.some((b) => b.type === 'tool_use'))

// Errors.
for (const [fields, said] of [
  [{ temperature: 7 }, 'temperature'],
  [{ messages: [] }, 'messages'],
  [{ max_tokens: -1 }, 'max_tokens'],
  [{ stream: true, temperature: 7 }, 'temperature'],
  [{ tools: [{ name: 'x', input_schema: { type: 'bad' } }], tool_choice: { type: 'any' } }, 'tools'],
]) {
  await assert.rejects(async () => { await client.messages.create(ask(fields)) }, (e) => {
    assert.ok(e instanceof Anthropic.BadRequestError, String(e))
    assert.equal(e.error.error.type, 'invalid_request_error')
    assert.ok(e.message.includes(said), e.message)
    return true
  })
}

// Whoever leaves is no burden.
const abort = new AbortController()
let pieces = 0
await assert.rejects(async () => {
  for await (const event of await client.messages.create(ask({ stream: true, max_tokens: 500, temperature: 1 }), { signal: abort.signal })) {
    if (event.type === 'content_block_delta' && ++pieces === 2) abort.abort()
  }
  throw new Error('ended')
})
assert.ok(pieces < 100)
console.log('ok')
