// Anthropic's own client for Node at a busy server, which it asks twice. The first argument is the server's address.
import assert from 'node:assert/strict'
import Anthropic from '@anthropic-ai/sdk'

const client = new Anthropic({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 1 })
await assert.rejects(client.messages.create({ model: 'x', max_tokens: 5, messages: [{ role: 'user', content: 'Hi' }] }), (e) => {
  assert.ok(e instanceof Anthropic.APIError && e.status >= 500, String(e))
  assert.equal(e.error.error.type, 'overloaded_error')
  return true
})
