// node-redis, unchanged, in the protocol that TEST_PROTOCOL names.
import { createClient } from 'redis'
import { assert, host, port, direct, main } from './common.mjs'

const RESP = Number(process.env.TEST_PROTOCOL)

async function open(options = {}) {
  const client = createClient({ socket: { host, port }, RESP, ...options })
  client.on('error', () => {})
  await client.connect()
  return client
}

await main({
  'commands of all kinds work': async () => {
    const r = await open({ name: 'node-redis-test' })
    assert.equal(await r.ping(), 'PONG')
    assert.equal(await r.set('k', 'v', { EX: 100 }), 'OK')
    assert.equal(await r.get('k'), 'v')
    assert.equal(await r.get('none'), null)
    assert.equal(await r.clientGetName(), 'node-redis-test')
    assert.equal(await r.hSet('h', { a: 1, b: 'two' }), 2)
    assert.deepEqual({ ...(await r.hGetAll('h')) }, { a: '1', b: 'two' })
    await r.sAdd('s', ['x', 'y'])
    assert.deepEqual(new Set(await r.sMembers('s')), new Set(['x', 'y']))
    await r.zAdd('z', [{ score: 1.5, value: 'm' }])
    assert.equal(await r.zScore('z', 'm'), 1.5)
    assert.deepEqual(await r.zRangeWithScores('z', 0, -1), [{ score: 1.5, value: 'm' }])
    await r.xAdd('stream', '*', { field: 'value' })
    assert.equal((await r.xRange('stream', '-', '+'))[0].message.field, 'value')
    assert.deepEqual(await r.eval('return {ARGV[1], 2, false}', { arguments: ['a'] }), ['a', 2, null])
    await assert.rejects(r.lPush('k', '1'), /WRONGTYPE/)
    assert.ok((await r.info()).includes('redis_version'))
    r.destroy()
  },
  'commands of one tick travel as one pipeline': async () => {
    const r = await open()
    const replies = await Promise.all(Array.from({ length: 5000 }, (_, i) => [r.set(`p:${i}`, `${i}`), r.get(`p:${i}`)]).flat())
    for (let i = 0; i < 5000; i++) assert.equal(replies[2 * i + 1], `${i}`)
    r.destroy()
  },
  'scan iterators see every key': async () => {
    const r = await open({ database: 7 })
    await r.mSet(Array.from({ length: 1000 }, (_, i) => [`scan:${i}`, `${i}`]))
    const seen = new Set()
    for await (const keys of r.scanIterator({ MATCH: 'scan:*', COUNT: 100 })) [keys].flat().forEach(k => seen.add(k))
    assert.equal(seen.size, 1000)
    await r.select(8)
    assert.equal(await r.dbSize(), 0)
    r.destroy()
  },
  'many clients at once get their own replies': async () => {
    const clients = await Promise.all(Array.from({ length: 100 }, () => open()))
    await Promise.all(clients.map(async (r, n) => {
      for (let i = 0; i < 20; i++) {
        const [a, b] = await Promise.all([r.echo(`${n}.${i}`), r.eval('return ARGV[1]', { arguments: [`${i}.${n}`] })])
        assert.equal(a, `${n}.${i}`)
        assert.equal(b, `${i}.${n}`)
      }
    }))
    clients.forEach(r => r.destroy())
  },
  'a killed client reconnects by itself': async () => {
    const r = await open({ socket: { host, port, reconnectStrategy: () => 20 } })
    const killer = await open()
    const id = await r.sendCommand(['CLIENT', 'ID'])
    await killer.sendCommand(['CLIENT', 'KILL', 'ID', `${id}`])
    await new Promise(resolve => setTimeout(resolve, 100))
    assert.equal(await r.echo('back'), 'back')
    r.destroy()
    killer.destroy()
  },
  ...(direct ? {} : {
    'a denied command is refused and the client goes on': async () => {
      const r = await open()
      await assert.rejects(r.sendCommand(['SHUTDOWN']), /Nearkey/)
      assert.equal(await r.echo('on'), 'on')
      r.destroy()
    },
  }),
})
